"""What is declared: YAML files, contracts, rules and SQL files, read without an engine and without a database."""
