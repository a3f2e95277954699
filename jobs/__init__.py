"""How the exchange's lake is run: one module per verb, called alike by Airflow, the command line and tests."""
