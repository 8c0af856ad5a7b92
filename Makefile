# make train   sets up .venv and trains the default job
# make test    sets up .venv and runs the tests
# make torture causes every fault for real and prints a table: about an hour
# ARGS are passed on: make train ARGS="--dataset=fashion_mnist --epochs=5"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed follows from these.
METADATA := setup.cfg pyproject.toml
ARGS ?=
BENCHMARKS := steps kernels replicas auto overhead start_up feeds memory finite_check

.PHONY: help train test torture equivalence bench bench-contenders lint typecheck clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,4s/^# //p' Makefile
	@echo "also: equivalence bench bench-contenders lint typecheck clean"

train: $(VENV)/.installed
	$(BIN)/python -m experiments.train $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

torture: $(VENV)/.installed-test
	$(BIN)/python -m tests.torture $(ARGS)

equivalence: $(VENV)/.installed-test
	$(BIN)/python -m tests.replicas.matrix $(ARGS)

bench-contenders: $(VENV)/.installed-bench
	$(BIN)/python -m experiments.benchmark.install_contenders

# Each one's results and tables are bench-NAME.json and bench-NAME.md.
bench: $(VENV)/.installed-bench
	for name in $(BENCHMARKS); do $(BIN)/python -m experiments.benchmark $$name \
		--json=bench-$$name.json --markdown=bench-$$name.md $(ARGS) || exit; done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-dev
	$(BIN)/mypy

# A stamp is written last, so that an interrupted installation is done again.
$(VENV)/.installed: $(VENV)/.made $(METADATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made $(METADATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.made $(METADATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-bench: $(VENV)/.made $(METADATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@ $(VENV)/.installed

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed;" \
		"install Debian's package python3, or give PYTHON=PATH" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { echo \
		"error: expected Python 3.10 to 3.13, found $$($(PYTHON) --version);" \
		"give another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: Python's venv module is" \
		"missing; install Debian's package" \
		"$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" \
		"(apt-get install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
