# Each target works alone on a machine with Python 3.11 to 3.13 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
LOCKED := --no-deps --require-hashes --requirement
# What `make test-newest` installs of PyTorch: its CPU builds lie at https://download.pytorch.org/whl/cpu.
TORCH_NEWEST ?= --extra-index-url https://download.pytorch.org/whl/cpu torch
# What `make test-newest` and `make test-oldest` run; everything by default.
TESTS ?=
RECORD ?=
# A worker for each core, which runs whole files, the longest first (tests/conftest.py).
WORKERS = -n 2 --dist loadfile --no-loadscope-reorder
# What `make test-transformers` runs: a release between the lowest and the newest.
TRANSFORMERS ?= 5.17.0
# The options of tools/rebuild_results.py.
REBUILD ?=

.PHONY: demo test test-newest test-oldest test-transformers check prove docs lock versions results package clean

demo: $(VENV)/demo-installed
	$(BIN)/keelback reproduce length-independence --task majority --out demo
	@echo "report: $(CURDIR)/demo/report/report.html"

test: $(VENV)/test-installed
	$(BIN)/pytest $(WORKERS) $(if $(RECORD),--record locked)

# The same tests on the newest release of everything, and on the lowest that pyproject.toml allows.
test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade pip
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager $(TORCH_NEWEST) --editable ".[dev]"
	.venv-newest/bin/pytest $(WORKERS) $(if $(RECORD),--record newest) $(TESTS)

test-oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --quiet --upgrade pip
	$(PYTHON) tools/lowest_versions.py > .venv-oldest/lowest.txt
	.venv-oldest/bin/pip install --quiet --requirement .venv-oldest/lowest.txt
	.venv-oldest/bin/pip install --quiet --no-deps --editable .
	.venv-oldest/bin/pytest $(WORKERS) $(if $(RECORD),--record oldest) $(TESTS)

# The tests of integrations and audits on another release of transformers, with the newest of the rest.
test-transformers:
	$(PYTHON) -m venv .venv-transformers
	.venv-transformers/bin/pip install --quiet --upgrade pip
	.venv-transformers/bin/pip install --quiet $(TORCH_NEWEST) "transformers==$(TRANSFORMERS)" --editable ".[dev]"
	.venv-transformers/bin/pytest $(WORKERS) $(if $(RECORD),--record transformers-$(TRANSFORMERS)) \
		tests/integrations tests/audit

check: $(VENV)/test-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/fill_tables.py --check
	$(BIN)/python tools/results_index.py --check

# Has Coq check every proof in proofs/ anew. It needs no .venv; where Coq is missing it installs it by
# apt-get if it may, and says how to get it if not. RECORD=1 writes what it found (needs keelback).
prove:
	$(PYTHON) tools/check_proofs.py --install --clean $(if $(RECORD),--out results/proofs/coq.json)

docs: $(VENV)/docs-installed
	$(BIN)/mkdocs build --strict

# Builds wheel and sdist, and uses each in an empty environment.
package:
	rm -rf dist .venv-package
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/pip install --quiet --disable-pip-version-check build twine
	.venv-package/bin/python -m build --outdir dist
	.venv-package/bin/twine check --strict dist/*
	for file in dist/*; do $(PYTHON) tools/try_package.py $$file || exit 1; done

# Resolves anew and writes requirements/*.txt; needs uv.
lock:
	$(PYTHON) tools/lock.py

# The table of the versions that were tested, from the records of `make test RECORD=1` and its kin.
versions:
	$(PYTHON) tools/tabulate_versions.py

# Says what rebuilding every committed result takes; REBUILD="--run --where cpu" does it.
results: $(VENV)/test-installed
	$(BIN)/python tools/rebuild_results.py $(REBUILD)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(LOCKED) requirements/torch-cpu.txt

$(VENV)/%-installed: $(BIN)/python requirements/%.txt pyproject.toml
	$(PIP) $(LOCKED) requirements/$*.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-transformers .venv-package dist demo site
