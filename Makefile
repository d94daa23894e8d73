# facekit: `make help` lists the targets. A fresh clone needs nothing but Python 3.11+ and pip's index.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= codec,dev,onnx,report

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-compress test test-all check bench format
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## create .venv with facekit and its extras (PYTHON=..., EXTRAS=...)

demo: $(STAMP)  ## synthetic faces -> teacher -> small student -> table, figure and swap page
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

demo-compress: $(STAMP)  ## a tiny codec on drawn faces: train, encode, decode, sizes (about a minute)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo_compress.sh

test: $(STAMP)  ## the default tests, without the slow ones
	$(BIN)/python -m pytest

test-all: $(STAMP)  ## every test; writes docs/results/tests.json
	$(BIN)/python tests/record_results.py docs/results/tests.json

check: $(STAMP)  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)  ## measure speed and memory against the bars in docs
	$(BIN)/python -m bench

format: $(STAMP)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Redone when the declared or pinned versions change. pip reads its own configuration: index, local wheels, proxy.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "facekit needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
