# Everything happens in .venv of this checkout; `make setup` alone prepares it.
PYTHON ?= python3
BIN := .venv/bin

# Of programs that the service and its checks do not need.
TOOLS := build/tools

.PHONY: setup demo test parity slow gallery lock sbom audit

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

$(TOOLS)/ready:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14' \
	  'cyclonedx-bom>=7.5,<8' 'pip-audit>=2.10,<3'
	touch $@

# What the image is built of: the versions of constraints.txt, with the hash of every file.
lock: $(TOOLS)/ready
	$(TOOLS)/bin/uv pip compile pyproject.toml --extra tracing --constraint constraints.txt --quiet \
	  --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --output-file requirements.lock

# The list of these parts, as CycloneDX, in build/sbom.json.
sbom: $(TOOLS)/ready
	$(TOOLS)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
	  --output-reproducible --of JSON --output-file build/sbom.json

# Their known vulnerabilities; asks pypi.org.
audit: $(TOOLS)/ready
	$(TOOLS)/bin/pip-audit --disable-pip --require-hashes --requirement requirements.lock
