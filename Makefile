# make setup: a virtual environment in .venv with everything; make demo: the demonstration; make test: all checks;
# make audit: known vulnerabilities of the dependencies; make bundle: the release archive of the bundle, checked.
# Another Python: make PYTHON=python3.12 setup. Another build of PyTorch: make TORCH=... setup.

PYTHON ?= python3
# The version is fixed, so that every machine gets the build that the project is tested with.
TORCH ?= torch==2.13.0

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test audit bundle clean

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

# The release archive: what is committed of the bundle. VERSION is the package's.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' bundle/rprloc/__init__.py)

bundle: setup
	mkdir -p dist
	git archive --format=zip --prefix=rprloc/ --output=dist/rprloc_bundle_v$(VERSION).zip HEAD:bundle
	$(BIN)/python scripts/check_bundle.py dist/rprloc_bundle_v$(VERSION).zip

audit: setup
	$(BIN)/python scripts/audit_dependencies.py

clean:
	rm -rf .venv demo-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis bundle/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
