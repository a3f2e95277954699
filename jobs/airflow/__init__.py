"""Airflow's side of the exchange: DAGs made from declarations, the tasks in them, and the services that run them."""
