# make setup: a virtual environment in .venv with everything; make demo: the demonstration; make test: all checks;
# make audit: known vulnerabilities of the dependencies.
# Another Python: make PYTHON=python3.12 setup. Another build of PyTorch: make TORCH=... setup.

PYTHON ?= python3
# The version is fixed, so that every machine gets the build that the project is tested with.
TORCH ?= torch==2.13.0

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test audit clean

help:
	@sed -n '1,3s/^# //p' Makefile

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/rprloc demo --out demo-out

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

audit: setup
	$(BIN)/python scripts/audit_dependencies.py

clean:
	rm -rf .venv demo-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis bundle/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
