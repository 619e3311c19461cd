# Two commands for a newcomer, each doing its own set-up:
#   make demo   decodes a real pair of models by every method, then compares them
#   make test   lint, types, unit tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit gpu sanitize clean

demo: $(STAMP)
	$(BIN)/specbench run --output-dir results
	$(BIN)/specbench compare "$$(ls -t results/demo-*.parquet | head -1)"

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest -q -n auto

gpu: $(STAMP)
	$(BIN)/pytest -q -m gpu

# Needs compute-sanitizer of the CUDA toolkit, and CuPy. PYTHON=... takes another Python than .venv's.
sanitize: PYTHON = $(BIN)/python
sanitize:
	compute-sanitizer --error-exitcode 1 --tool memcheck $(PYTHON) tests/kernels/sanitize.py
	compute-sanitizer --error-exitcode 1 --tool racecheck $(PYTHON) tests/kernels/sanitize.py
	compute-sanitizer --error-exitcode 1 --tool synccheck $(PYTHON) tests/kernels/sanitize.py

# torch first and pinned: left to a resolver, a package could pull another build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache
