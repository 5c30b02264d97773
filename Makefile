# The two entry points each work alone on a machine with Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build; the package itself takes a range.
TORCH ?= torch==2.13.0

.PHONY: demo test check docs clean

demo: $(VENV)/demo-installed
	$(BIN)/keelback reproduce length-independence --task majority --out demo
	@echo "report: $(CURDIR)/demo/report/report.html"

test: $(VENV)/dev-installed
	$(BIN)/pytest -n 2 --dist loadfile

check: $(VENV)/dev-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/fill_tables.py --check

docs: $(VENV)/docs-installed
	$(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)

$(VENV)/demo-installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable ".[report]"
	@touch $@

$(VENV)/dev-installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

$(VENV)/docs-installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) demo site
