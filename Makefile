# What a clean clone needs: Python 3.11 or newer, and make. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := .demo
# Where PyTorch publishes builds without CUDA, which is 4.6 GB that only NVIDIA devices use.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# Some tests wait, for times or for processes, while others use the processor.
TEST_PROCESSES ?= 4

# Many images of containers set it. Then each process that a test starts compiles all its modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-all bench bench-search soak check docs format clean

help:
	@echo "make demo      index a real corpus and search it"
	@echo "make test      run the tests (make test-slow: the slow ones; make test-all: both)"
	@echo "make bench     measure queue, index, freshness, embedding (about 40 minutes)"
	@echo "make bench-search  measure how well searches find known documents (half an hour)"
	@echo "make soak      ten minutes of documents and accidents (SOAK_HOURS, SOAK_SEED)"
	@echo "make check     lint, types and import rules; the docs build without a warning"
	@echo "make docs      build the documentation into site/"
	@echo "make format    format the code"
	@echo "make clean     remove what these targets made"

demo: $(VENV)/.installed
	$(BIN)/python examples/write_corpus.py $(DEMO)/corpus
	INGESTQ_DATA_DIR=$(DEMO)/data $(BIN)/ingestq run $(DEMO)/corpus
	INGESTQ_DATA_DIR=$(DEMO)/data $(BIN)/ingestq search -n 2 \
		"Which lost plant was found again in an old jar?"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist worksteal

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -n $(TEST_PROCESSES) --dist worksteal

test-all: test test-slow

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.queue
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.freshness
	$(BIN)/python -m benchmarks.embedding

bench-search: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.search

# SOAK_HOURS=8 lets it run for a night; SOAK_SEED repeats what another one did.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.soak

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	env NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

docs: $(VENV)/.installed-dev
	env NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict
	@echo "to read it: $(BIN)/python -m http.server --directory site"

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO) site .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ingestq needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	@if [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidia0 ] && ! command -v nvidia-smi >/dev/null; then \
		echo "no NVIDIA device: installing torch without CUDA from $(TORCH_CPU_INDEX)"; \
		$(PIP) --no-deps --retries 0 --index-url $(TORCH_CPU_INDEX) torch 2>/dev/null || \
			echo "that index cannot be reached: installing the usual torch, which may bring 4.6 GB of CUDA"; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "installing (torch is large: the first time takes a few minutes)"
	$(PIP) --editable ".[all]"
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) --editable ".[bench]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable ".[dev]"
	@touch $@
