# Everything happens in .venv of this checkout; `make setup` alone prepares it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test parity slow gallery

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 setup") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m load_tests.demo

test: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest -m 'not slow'

gallery: setup
	$(BIN)/python -m load_tests.gallery

parity: setup
	$(BIN)/pytest tests/parity

slow: setup
	$(BIN)/pytest -m slow
