# `make` alone lists the targets. Needs make and Python 3.11, nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
UV ?= $(or $(shell command -v uv),.exchange/tools/bin/uv)
ROWS ?= 2000000
SPARK ?= marked

# Bytecode is compiled once at installation: the first start would pay for it otherwise, in every process.
# The interpreter itself is named, not what stands for it on the path: given a pyenv shim, uv finds that the environment
# is another Python's and makes it anew, each time.
INTERPRETER = $$($(PYTHON) -c 'import sys; print(sys.executable)')
SYNC = UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never $(UV) sync --frozen --inexact --quiet --python "$(INTERPRETER)"
INSTALLED := uv.lock pyproject.toml

# With CLUSTER=1 on this machine's cluster, in a home of its own: one home keeps releases and keys of one exchange.
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

run: $(RUN) ## bring in every source, release every product, show what came of it, stop; CLUSTER=1: on Spark
	@.venv/bin/exchange run $(AT)

up: $(RUN) ## the same, then stay: Airflow on its schedules and the sharing server
	@.venv/bin/exchange up $(AT)

check: .venv/.installed-test ## before each commit: ruff, mypy, the layers of jobs/ and the unit tests
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest -n 2 tests/unit

# Spark's cases come first, in one process; the other one meanwhile begins with what waits much: Airflow and the cluster.
test: .venv/.installed-test ## ruff, mypy, the layers of jobs/ and all tests; SPARK=all: all of them on both engines, and the long ones
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest -n 2 --no-loadscope-reorder --spark $(SPARK)

bench: .venv/.installed-bench ## measure against other engines, with ROWS=2000000 rows unless said otherwise
	@ROWS=$(ROWS) .venv/bin/python -m tests.bench

torture: .venv/.installed-test ## kill whatever works KILLS=200 times, with ENGINE=cluster or embedded, and compare the tables
	@.venv/bin/python -m tests.torture

.venv/.installed-run: $(INSTALLED) | $(UV)
	@echo 'installing what uv.lock names (minutes the first time, then only when it changes)'
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
