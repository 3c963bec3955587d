VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: run test lint check clean

run: $(VENV)/.installed
	cd examples && ../$(BIN)/bkd start -c bkd.toml

test: $(VENV)/.tested
	$(BIN)/python -m pytest -q

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[dev,test]'
	touch $@

clean:
	rm -rf $(VENV) .bkd dist build
