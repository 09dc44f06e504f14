# make demo    install, export the reference network for this computer, run it for 10 s
# make test    install what the tests need and run all of them (TESTS=what pytest shall run instead)
# make check   format, lint, types, Python 3.8, generated documents
# make bench   the figures of the documents (DATA=folder with the data sets)
# make docs    write the generated documents again
# make wheel   what a board installs, into dist
# make arm64   the wheel on an emulated aarch64, its labels held against those of this machine
#
# TORCH_INDEX says where PyTorch's CPU build comes from, in pip's own words; the README has examples.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_INDEX ?=
DATA ?=
TESTS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What is installed is reused until one of these files changes.
HASH := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
DEMO_READY := $(VENV)/.demo-$(HASH)
TEST_READY := $(VENV)/.test-$(HASH)

.PHONY: demo test check bench docs wheel arm64 clean

demo: $(DEMO_READY)
	$(BIN)/mla-edge export --profile host
	$(BIN)/mla-edge run --camera sim://digits --mic sim://digits --duration 10

test: $(TEST_READY)
	$(BIN)/python -m pytest $(TESTS)

check: $(TEST_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --no-tips --target=3.8- --violations $(PY38_FILES)
	$(BIN)/python scripts/render_docs.py --check

bench: $(TEST_READY)
	@test -n "$(DATA)" || { echo "say where the data sets are: make bench DATA=folder" >&2; exit 2; }
	$(BIN)/mla-edge export --profile host
	$(BIN)/python benchmarks/overhead.py bundles/digits-host
	$(BIN)/python benchmarks/speed.py bundles/digits-host --data "$(DATA)"
	$(BIN)/python benchmarks/digits.py --data "$(DATA)" --bundle bundles/digits-host
	$(BIN)/python benchmarks/routing.py --network digits --data "$(DATA)"
	$(BIN)/python benchmarks/routing_stream.py

docs: $(TEST_READY)
	$(BIN)/python scripts/render_docs.py

wheel: $(DEMO_READY)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

arm64: bundles/digits-host
	PYTHON=$(BIN)/python scripts/arm64.sh bundles/digits-host

bundles/digits-host: | $(DEMO_READY)
	$(BIN)/mla-edge export --profile host

clean:
	rm -rf $(VENV) bundles dist build

# Everything but the modules that import torch runs on Python 3.8.
PY38_FILES = $(shell grep -rLE '^ *(import|from) torch' mla_edge --include='*.py' | grep -v '/networks/')

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "exporting needs Python 3.10 or later: sudo apt-get install python3.11-venv," \
		"or make PYTHON=path" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip' || { \
		echo "this Python cannot make a virtual environment: sudo apt-get install python3-venv" >&2; \
		exit 3; }
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): | $(VENV)/bin/python
	$(PIP) $(TORCH_INDEX) torch
	$(PIP) --editable '.[export]'
	rm -f $(VENV)/.demo-* $(VENV)/.test-*
	touch $@

$(TEST_READY): $(DEMO_READY)
	$(PIP) --editable '.[dev]'
	touch $@
