# `make` alone lists the targets. Needs only make and Python 3.11.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
UV ?= $(or $(shell command -v uv),.exchange/tools/bin/uv)
ROWS ?= 2000000
SPARK ?= modules

# Compiling bytecode at installation spares every process of the first start that work.
# uv gets the path of the interpreter itself: given a pyenv shim, it takes the environment for another Python's and
# recreates it each time.
INTERPRETER = $$($(PYTHON) -c 'import sys; print(sys.executable)')
SYNC = UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never $(UV) sync --frozen --inexact --quiet --python "$(INTERPRETER)"
INSTALLED := uv.lock pyproject.toml

# CLUSTER=1 runs on this machine's cluster, in a separate home: a home keeps the releases and keys of one exchange.
ifdef CLUSTER
RUN := .venv/.installed-cluster
AT := --cluster
export EXCHANGE_HOME ?= $(CURDIR)/.exchange/on-cluster
else
RUN := .venv/.installed-run
endif

.DEFAULT_GOAL := help
.PHONY: help run up check test bench torture

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

run: $(RUN) ## load every source, release every product, show the result, stop; CLUSTER=1: on Spark
	@.venv/bin/exchange run $(AT)

up: $(RUN) ## the same, then keep Airflow on its schedules and the sharing server running
	@.venv/bin/exchange up $(AT)

check: .venv/.installed-test ## before each commit: ruff, mypy, the layers of jobs/ and the unit tests
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest -n 2 tests/unit

# Spark's cases run first, in one process; the other starts with tests that mostly wait: Airflow and the cluster.
test: .venv/.installed-test ## ruff, mypy, the layers of jobs/ and the tests; SPARK=marked: more of them on Spark; SPARK=all: everything
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest -n 2 --no-loadscope-reorder --spark $(SPARK)

bench: .venv/.installed-bench ## measure against other engines, with ROWS=2000000 rows by default
	@ROWS=$(ROWS) .venv/bin/python -m tests.bench

torture: .venv/.installed-test ## kill processes KILLS=200 times at random, with ENGINE=cluster or embedded, and compare the tables
	@.venv/bin/python -m tests.torture

.venv/.installed-run: $(INSTALLED) | $(UV)
	@echo 'installing what uv.lock lists (takes minutes the first time; repeated only when it changes)'
	@$(SYNC) --no-default-groups
	@touch $@

.venv/.installed-cluster: $(INSTALLED) | $(UV)
	@$(SYNC) --no-default-groups --extra cluster
	@touch $@

.venv/.installed-test: $(INSTALLED) | $(UV)
	@$(SYNC) --group dev --extra cluster
	@touch $@

.venv/.installed-bench: $(INSTALLED) | $(UV)
	@$(SYNC) --group dev --group bench --extra cluster
	@touch $@

.exchange/tools/bin/uv:
	@$(PYTHON) -m venv .exchange/tools
	@.exchange/tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
