# make setup: a virtual environment in .venv with everything; make demo: the demonstration; make test: all checks;
# make audit: known vulnerabilities of the dependencies; make bundle: the release archive of the bundle, checked.
# make benchmark: all methods on three pairs of scans, hardly trained, into runs/benchmark-quick; make benchmark-full: into docs/benchmark.
# Another Python: make PYTHON=python3.12 setup. Another build of PyTorch: make TORCH=... setup.

PYTHON ?= python3
# The version is fixed, so that every machine gets the build that the project is tested with.
TORCH ?= torch==2.13.0

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test audit bundle benchmark benchmark-full clean

help:
	@sed -n '1,4s/^# //p' Makefile

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
	# 3: the database of vulnerabilities cannot be reached from here; nothing is known then, and the output says so.
	$(BIN)/python scripts/audit_dependencies.py || [ $$? -eq 3 ]
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

# The release archive: what is committed of the bundle. VERSION is the package's.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' bundle/rprloc/__init__.py)

bundle: setup
	mkdir -p dist
	git archive --format=zip --prefix=rprloc/ --output=dist/rprloc_bundle_v$(VERSION).zip HEAD:bundle
	$(BIN)/python scripts/check_bundle.py dist/rprloc_bundle_v$(VERSION).zip

audit: setup
	$(BIN)/python scripts/audit_dependencies.py

# Annotated scans; see bundle/docs/README.md for the format. More pairs or another budget: make BENCHMARK='--pairs 40' benchmark-full.
DATA ?= $(firstword $(wildcard data/datasets.json ../shared/data/datasets.json) data/datasets.json)
BENCHMARK ?=
run_benchmark = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python scripts/benchmark/run.py $(DATA)

benchmark: setup
	$(run_benchmark) --runs runs/benchmark-quick --docs runs/benchmark-quick/report \
		--pairs 2 --abdomen-pairs 1 --budget 0.05 $(BENCHMARK)

benchmark-full: setup
	$(run_benchmark) --runs runs/benchmark --docs docs/benchmark $(BENCHMARK)

clean:
	rm -rf .venv demo-out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis bundle/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
