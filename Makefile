# Two commands matter: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3
VENV   ?= .venv

BIN     := $(VENV)/bin
WHEELS  := build/wheel
QUIET   := --quiet --quiet --disable-pip-version-check
# Directories are listed too: their times change when a file is added or removed.
SOURCES := $(shell find csrc python -not -name '__pycache__' -not -name '*.pyc') CMakeLists.txt pyproject.toml

FORMATTED = $(shell find csrc tests/native -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test mutation bench prove gpu-check lint types docs clean
.DEFAULT_GOAL := test

demo: $(VENV)/.demo
	MPLBACKEND=Agg $(BIN)/expunge demo --overwrite

# One process a core; PYTEST_ARGS= runs all tests in one.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 8 --dist worksteal

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Breaks the package one line at a time: make mutation ARGS='--room accounting --sample 200 --seed 1'
mutation: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m mutation $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python bench/run_all.py

# Holds certified numbers of thousands of problems against proofs: make prove ARGS='--problems 500 --seed 3'
prove: $(VENV)/.dev
	$(BIN)/python -m pip install $(QUIET) "$$(ls $(WHEELS)/expunge-*.whl)[proof]"
	$(BIN)/python bench/prove.py $(ARGS)

# On a machine with an NVIDIA GPU, with the interpreter that has PyTorch there: builds, tests, times. No network.
gpu-check:
	$(PYTHON) bench/gpu_check.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

types: $(VENV)/.dev
	$(BIN)/python -m mypy

# The documentation as a site, in build/docs. Pages of expunge.torch need PyTorch in .venv; what is left out is listed.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo build/docs/index.html

clean:
	rm -rf $(VENV) build dist docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "needs Python >= 3.10; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# One wheel serves both environments, so that demo and test do not compile twice.
$(WHEELS)/.built: $(SOURCES) | $(BIN)/python
	rm -rf $(WHEELS)
	$(BIN)/python -m pip wheel $(QUIET) --no-deps --wheel-dir $(WHEELS) .
	touch $@

$(VENV)/.package: $(WHEELS)/.built | $(BIN)/python
	$(BIN)/python -m pip install $(QUIET) --no-deps --force-reinstall $(WHEELS)/expunge-*.whl
	touch $@

$(VENV)/.demo: $(VENV)/.package
	$(BIN)/python -m pip install $(QUIET) "$$(ls $(WHEELS)/expunge-*.whl)[plot,parquet]"
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(BIN)/python -m pip install $(QUIET) "$$(ls $(WHEELS)/expunge-*.whl)[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.package
	$(BIN)/python -m pip install $(QUIET) "$$(ls $(WHEELS)/expunge-*.whl)[docs]"
	touch $@
