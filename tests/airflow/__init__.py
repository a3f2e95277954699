"""Airflow, started as a person starts it."""
