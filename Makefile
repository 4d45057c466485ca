# make setup: a virtual environment in .venv with everything; make demo: the demonstration; make test: all checks;
# make docs: the documentation as a site, in site/; make audit: known vulnerabilities of the dependencies;
# make bundle: the release archive of the bundle, checked; make test-floor: the quick tests with the oldest dependencies.
# make benchmark: all methods on three pairs of scans, hardly trained, into runs/benchmark-quick; make benchmark-full: into docs/benchmark.
# make test-monailabel: the app for MONAI Label in a real server, in an environment that make monailabel makes in .venv-monailabel.
# Another Python: make PYTHON=python3.12 setup. Another build of PyTorch: make TORCH=... setup.

PYTHON ?= python3
# The version is fixed, so that every machine gets the build that the project is tested with.
TORCH ?= torch==2.13.0

# Processes that run the tests; 0 for one after the other, as a debugger needs it.
TEST_JOBS ?= 2

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo docs test test-floor monailabel test-monailabel audit bundle benchmark benchmark-full clean

help:
	@sed -n '1,6s/^# //p' Makefile

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/rprloc demo --out demo-out

# Any warning, such as a link to nowhere, fails. The site needs no network: open site/index.html.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: setup docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=bundle $(BIN)/lint-imports --no-cache
	# 3: the database of vulnerabilities cannot be reached from here; nothing is known then, and the output says so.
	$(BIN)/python -m scripts.release.audit_dependencies || [ $$? -eq 3 ]
	# Files that share what is costly to make stay whole, and in their order, so that no large one comes last.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

# The oldest versions of its dependencies that the library declares, and the oldest Python, run the quick tests, too.
# Warnings of such old packages are no errors here. It downloads some gigabytes, so make test does not do it.
FLOOR := .venv-floor
FLOOR_PYTHON ?= python3.10
FLOOR_TOOLS := hypothesis pynrrd pytest

$(FLOOR)/.ready: pyproject.toml
	$(FLOOR_PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --disable-pip-version-check --quiet uv
	$(FLOOR)/bin/uv pip install --quiet --python $(FLOOR)/bin/python --resolution lowest-direct \
		--editable '.[bundle,calibrate,cluster,dicom,train]'
	$(FLOOR)/bin/uv pip install --quiet --python $(FLOOR)/bin/python $(FLOOR_TOOLS)
	touch $@

test-floor: $(FLOOR)/.ready
	PATH="$(CURDIR)/$(FLOOR)/bin:$$PATH" $(FLOOR)/bin/python -m pytest -m "not slow" -o filterwarnings=default

# MONAI Label for the app in monailabel_app, apart: it needs pydicom before 3 and jsonschema before 4, RPR-Loc later ones.
# Its many packages take some minutes, so make test does not install them; where they are, it runs their tests, too.
MONAILABEL := .venv-monailabel

monailabel: $(MONAILABEL)/.ready

# sam2, which MONAI Label wants, would otherwise download PyTorch once more to be built.
$(MONAILABEL)/.ready:
	$(PYTHON) -m venv $(MONAILABEL)
	$(MONAILABEL)/bin/python -m pip install --disable-pip-version-check --quiet $(TORCH) setuptools wheel
	SAM2_BUILD_CUDA=0 $(MONAILABEL)/bin/python -m pip install --disable-pip-version-check --quiet --no-build-isolation \
		$(TORCH) 'monailabel==0.8.5' 'pydicom<3'
	touch $@

test-monailabel: setup monailabel
	$(BIN)/python -m pytest tests/test_monailabel.py

# The release archive: what is committed of the bundle. VERSION is the package's.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' bundle/rprloc/version.py)

bundle: setup
	mkdir -p dist
	git archive --format=zip --prefix=rprloc/ --output=dist/rprloc_bundle_v$(VERSION).zip HEAD:bundle
	$(BIN)/python -m scripts.release.check_bundle dist/rprloc_bundle_v$(VERSION).zip

audit: setup
	$(BIN)/python -m scripts.release.audit_dependencies

# Annotated scans; see bundle/docs/README.md for the format. More pairs or another budget: make BENCHMARK='--pairs 40' benchmark-full.
DATA ?= $(firstword $(wildcard data/datasets.json ../shared/data/datasets.json) data/datasets.json)
# More scans that networks learn from, without labels.
DATA_MORE ?= $(firstword $(wildcard data_more/datasets.json ../shared/data_more/datasets.json))
BENCHMARK ?=
run_benchmark = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m scripts.benchmark.run $(DATA) $(DATA_MORE)

benchmark: setup
	$(run_benchmark) --runs runs/benchmark-quick --docs runs/benchmark-quick/report \
		--pairs 2 --abdomen-pairs 1 --budget 0.0025 $(BENCHMARK)

benchmark-full: setup
	$(run_benchmark) --runs runs/benchmark --docs docs/benchmark --other-pairs 16 --all-organs abdomen --time-threads 1 2 $(BENCHMARK)

clean:
	rm -rf .venv $(FLOOR) $(MONAILABEL) demo-out example-out site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bundle/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
