# Every target sets up what it needs in .venv, once, and again only when pyproject.toml or constraints.txt changes.
#
#   make test PYTHON=python3.12     the Python that makes .venv (3.11 or newer: see constraints.txt)
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                   torch without CUDA; on Linux the default build brings several GB of it
#   make test PYTEST_ARGS="-k plan" further arguments of pytest
#   make test JOBS=8                tests at once, one thread each; 0 runs them in one process, for a debugger
#   make test-gpu DSEARCH_DEVICE=mps
#                                   a device of torch; by default the first accelerator that torch sees
#   make test COVERAGE=1            the same tests, which lines they ran, and all of dsearch/core required

PYTHON ?= python3
TORCH_INDEX ?=
JOBS ?= 2
DSEARCH_DEVICE ?= auto

BIN := .venv/bin
PIP := $(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

ifdef COVERAGE
COV := --cov --cov-report=term
endif

.PHONY: demo test test-slow test-gpu test-dist test-oracles attacks coverage api lint format docs dist bench bench-gpu pipelines clean

demo: .venv/.dev
	$(BIN)/python -m dsearch demo --out demo-out

test: .venv/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not shared and not dist" $(COV) $(PYTEST_ARGS)
ifdef COVERAGE
	@report=$$($(BIN)/coverage report --include='dsearch/core/*' --fail-under=100) || { echo "$$report"; exit 1; }
endif

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m "slow and not shared" $(PYTEST_ARGS)

test-gpu: .venv/.dev
	DSEARCH_DEVICE=$(DSEARCH_DEVICE) $(BIN)/python -m pytest -m "device or cuda" $(PYTEST_ARGS)

test-dist: .venv/.dev
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) $(BIN)/python -m pytest -m dist $(PYTEST_ARGS)

# hpsv2 pins old test tools, and OCR is large: they are met in an environment of their own.
test-oracles: .oracles/.ready
	DSEARCH_ORACLES=1 .oracles/bin/python -m pytest -m "not slow" -k "hps or ocr" tests/test_hps.py tests/test_ocr.py tests/test_rewards.py \
		tests/test_accelerator.py tests/test_edges.py $(PYTEST_ARGS)

# What is done to a run, its files, its words and its weights, and how often it came out right: the table of docs/promises.md.
attacks: .venv/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not shared and not dist" --attacks docs/promises.md $(PYTEST_ARGS) \
		tests/test_runs.py tests/test_data_safety.py tests/test_damaged_weights.py tests/test_strict.py tests/test_refusals.py \
		tests/test_cli.py tests/test_text.py tests/test_report.py

coverage:
	$(MAKE) test COVERAGE=1

api: .venv/.dev
	$(BIN)/python tests/test_public_api.py

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.docs
	$(BIN)/mkdocs build --strict

dist: .venv/.dev
	$(BIN)/python -m build --no-isolation

bench: .venv/.dev
	$(BIN)/python benchmarks/throughput.py

bench-gpu: .venv/.dev
	$(BIN)/python benchmarks/throughput.py --device $(DSEARCH_DEVICE) --width 8 --repeats 3

pipelines: .venv/.dev
	$(BIN)/python benchmarks/pipelines.py --docs docs/pipelines.md

clean:
	rm -rf build dist site demo-out .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@

.oracles/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .oracles
	.oracles/bin/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[test,clip,ocr]' clint
	.oracles/bin/python -m pip install --no-deps -c constraints.txt hpsv2
	touch $@

.venv/.docs: .venv/.dev
	$(PIP) -e '.[docs]'
	touch $@
