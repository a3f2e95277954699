"""A real cluster (object store, database, Spark with Delta behind Spark Connect) on one machine or on several."""
