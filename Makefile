# Every target sets up what it needs in .venv, once, and again only when pyproject.toml or constraints.txt changes.
#
#   make test PYTHON=python3.12     the Python that makes .venv (3.11 or newer: see constraints.txt)
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                   torch without CUDA; on Linux the default build brings several GB of it

PYTHON ?= python3
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

.PHONY: demo test test-slow lint format docs bench clean

demo: .venv/.dev
	$(BIN)/python -m dsearch demo --out demo-out

test: .venv/.dev
	$(BIN)/python -m pytest -m "not slow and not shared"

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m "slow and not shared"

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.docs
	$(BIN)/mkdocs build --strict

bench: .venv/.dev
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf build dist site demo-out .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@

.venv/.docs: .venv/.dev
	$(PIP) -e '.[docs]'
	touch $@
