# Every target does its own set-up, and does nothing twice. `make help` lists them.
#
#   PYTHON=python3.12   the interpreter that .venv is made with (3.11 or newer)
#   ARGS="-k lease"     more arguments for pytest
#   JOBS=3              processes that share the tests: they wait more than they compute (0: this one alone)
#   BENCH_RUNS=5        runs of each benchmark

SHELL := /bin/sh
PY := .venv/bin/python
ARGS ?=
JOBS ?= 3
CODE = $(shell $(PY) scripts/workspace.py packages)

.PHONY: help setup servers test faults lint format demo bench wheels clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: ## Make .venv with every distribution of the workspace installed editable
	@python=$$(scripts/find_python.sh) && "$$python" scripts/bootstrap.py

servers: setup
	@$(PY) scripts/servers.py

test: servers ## Run the whole suite (ARGS="-k lease" picks); what fails beside others has a second go alone
	$(PY) scripts/run_tests.py -n $(JOBS) $(ARGS)

faults: servers ## Run the tests that kill, freeze and cut real things
	$(PY) -m pytest -n $(JOBS) -m "faults or case" --thorough --fault-table docs/faults.md $(ARGS)

lint: setup ## Lint, strict type check, and the directions of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict $(CODE) scripts benchmarks
	MYPYPATH=examples/demo .venv/bin/mypy --strict examples/demo
	.venv/bin/lint-imports

format: setup ## Format, put imports in order, mend what can be mended mechanically
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

demo: setup ## See a worker do a real job, in under 90 seconds
	@$(PY) examples/demo/run.py

bench: servers ## Measure, beside the peers; writes docs/benchmarks.md
	$(PY) -m benchmarks

wheels: setup ## Build every wheel into dist/
	@$(PY) scripts/wheels.py

clean: ## Remove what the targets made
	rm -rf .venv .venv-peers dist build .kernel .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
