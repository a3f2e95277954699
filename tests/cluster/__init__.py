"""A cluster on this machine: Spark, object store and database."""
