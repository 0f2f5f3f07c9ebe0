# Every target makes .venv first, from pinned versions; `make demo` and `make test` are all you need.

PYTHON ?= python3
BIN := .venv/bin
# Bytecode is written even where the environment forbids it: pytest rewrites every file of tests, and
# without bytecode each of its processes does so again.
WITH_BYTECODE := PYTHONDONTWRITEBYTECODE= $(BIN)/python

.PHONY: demo test test-avx2 check bench prove format clean

demo: .venv/installed
	$(BIN)/python -P -m relume.demo demo

test: .venv/installed
	$(WITH_BYTECODE) -m pytest -q -n auto --dist loadscope

test-avx2: .venv/installed
	$(WITH_BYTECODE) -m tests.processors -q -n auto --dist loadscope

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.inference
	$(BIN)/python -m benchmarks.processes
	$(BIN)/python -m benchmarks.exchange

prove: .venv/installed
	$(BIN)/python -m tests.long_proofs

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo .prove

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
