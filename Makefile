# Each verb works as the first command on a machine that has Python 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
STAMP := .venv/.installed
OPTIONAL := .venv/.optional

export TOKENIZERS_PARALLELISM := false
.DEFAULT_GOAL := help
.PHONY: help setup fetch demo test check bench

help:
	@echo "make demo    climb the ladder on film reviews with a real model and write a report"
	@echo "make test    run every test"
	@echo "make check   style, types, budgets, import direction"
	@echo "make bench   run every benchmark"
	@echo "make setup   only create .venv and install (the others begin with it)"

# torch goes first and alone: pip then keeps this build, and nothing that follows can pull in another.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tunesmith needs Python 3.11 or newer. Name one you have: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12"; exit 1; }
	@echo "[1/4] an environment in .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --upgrade pip
	@echo "[2/4] torch (a few hundred MB when it is not in pip's cache)"
	@$(PIP) install -c constraints.txt torch
	@echo "[3/4] the other packages"
	@$(PIP) install -c constraints.txt -e '.[embedded,data,dev]'
	@$(BIN)/python -m pip check --quiet
	@touch $@
	@echo "[4/4] installed; activate with: source .venv/bin/activate"

setup: $(STAMP)
	@:

# What users install when they want it; the tests want everything.
$(OPTIONAL): $(STAMP)
	@$(PIP) install -c constraints.txt -e '.[constrain,eval,ray,retrieval,tracking]'
	@touch $@

fetch: setup
	@$(BIN)/tunesmith fetch

demo: fetch
	@$(BIN)/tunesmith ladder movies --run_dir runs/movies
	@echo "The report is $(CURDIR)/runs/movies/report.html"

# Two processes of one thread each: most tests are too small for two threads.
test: fetch $(OPTIONAL)
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/house

bench: fetch $(OPTIONAL)
	@for script in benchmarks/*/run.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done
