"""The registry's schema as migrations, so that existing databases can follow new versions of the program."""
