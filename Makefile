# `make demo` and `make test` need nothing but a Python >= 3.10 called python3
# (or `make PYTHON=/path/to/python test`).

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
EXAMPLES = $(patsubst examples/%,%,$(patsubst %.py,%,$(wildcard examples/[a-z]*.py)) \
	$(patsubst %/__main__.py,%,$(wildcard examples/*/__main__.py)))

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types imports doctest smoke docs bench clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else \
	"Python >= 3.10 is needed, this is " + sys.version + "; try: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python $(INPUTS)
	@echo "Installing into $(VENV); the first time this takes some minutes."
	$(INSTALL) -e '.[examples]'
	@touch $@

$(VENV)/test.stamp: $(BIN)/python $(INPUTS)
	@echo "Installing into $(VENV); the first time this takes some minutes."
	$(INSTALL) -e '.[examples,test]'
	@touch $@

$(VENV)/check.stamp: $(VENV)/test.stamp
	$(INSTALL) -e '.[examples,test,dev,docs]'
	@touch $@

demo: $(VENV)/demo.stamp  ## Install and run the main example; results in out/digits/
	$(BIN)/python -m examples.digits

test: $(VENV)/test.stamp  ## Install and run the tests
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

check: lint types imports doctest smoke docs  ## Every other check that CI makes

lint: $(VENV)/check.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/check.stamp
	$(BIN)/mypy --strict pyro_ebm

imports: $(VENV)/check.stamp
	$(BIN)/lint-imports --no-logo

doctest: $(VENV)/check.stamp
	$(BIN)/python -m pytest -q --doctest-modules --doctest-glob='*.md' \
		pyro_ebm README.md CONTRIBUTING.md docs/*.md

# A target for each example, so that they share the cores.
SMOKES = $(EXAMPLES:%=smoke-%)

smoke: $(SMOKES)

$(SMOKES): smoke-%: $(VENV)/check.stamp
	$(BIN)/python -m examples.$* --smoke

docs: $(VENV)/check.stamp  ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# Of its own, because nutpie needs an older ArviZ than the newest that this project supports.
BENCH := $(VENV)/bench

$(BENCH)/bench.stamp: $(BIN)/python pyproject.toml constraints-bench.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	"The peers need Python >= 3.11, this is " + sys.version + "; try: make PYTHON=/path/to/python bench")'
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet \
		-c constraints-bench.txt -e '.[bench]'
	@touch $@

bench: $(BENCH)/bench.stamp  ## Measure pyro_ebm and its peers; results in docs/benchmarks.md
	$(BENCH)/bin/python -m pytest -q -W ignore tests/kernels/test_nuts_against_numpyro.py
	$(BENCH)/bin/python -W ignore -m tests.benchmarks $(BENCH_ARGS)

clean:  ## Remove what the other commands made, the virtual environment included
	rm -rf $(VENV) out docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
