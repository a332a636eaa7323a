# Needs only Python 3.11 or later and make. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help course test smoke test-unit test-notebooks test-slow check lint lab demo bench requirements clean

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NOTEBOOKS = $(sort $(wildcard chapter*/[0-9]*.ipynb))
# Beside other work, threads that spin while they wait make everything slower (common/__init__.py).
export OMP_WAIT_POLICY ?= PASSIVE
# Never look for a model hub unless the big profile asks for one.
OFFLINE := $(if $(filter full,$(COURSE_PROFILE)),,HF_HUB_OFFLINE=1)

# All that the commands need; `tracking` is for whoever asks a training to be tracked.
EXTRAS := notebooks demo scale dev
# TORCH=cpu installs the build of torch without CUDA, which is most of the environment; any --torch-backend of uv will do.
TORCH ?=
comma := ,

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment. A new package folder or a changed pin installs again; with nothing to do uv needs a second.
$(STAMP): requirements.txt pyproject.toml $(wildcard */__init__.py)
	@test -n "$(PYTHON)" || { echo "error: no Python found; install Python 3.11 or later" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is too old; install Python 3.11 or later, or name it: make PYTHON=..." >&2; exit 2; }
	@test -x $(BIN)/uv || { "$(PYTHON)" -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) \
		--constraints requirements.txt -e '.[$(subst $() $(),$(comma),$(EXTRAS))]'
	@touch $@

course: $(STAMP) ## run every chapter's notebooks in order, then show the scoreboard; TORCH=cpu on a machine without CUDA
	@$(BIN)/python -m course run

test: test-unit test-notebooks ## unit tests, then every notebook against its committed outputs

# Two workers of one thread each: with OpenMP's own threads on top they took more than twice the processor time.
test-unit: $(STAMP)
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -q -m "not slow" -n 2

# Committed outputs come from a CPU with native bfloat16. Another rounds differently: there the cells must run and their
# asserts hold, but outputs are not compared.
NBVAL = $(shell $(BIN)/python -c 'from common.devices import native_bfloat16 as found; print("nbval" if found() else "nbval-lax")')

test-notebooks: $(STAMP)
	$(if $(NOTEBOOKS),$(OFFLINE) COURSE_QUIET=1 $(BIN)/python -m pytest -q --$(NBVAL) --nbval-current-env $(NOTEBOOKS),@echo "no notebooks yet")

smoke: $(STAMP) ## every notebook on a small shop, from nothing: does it run here?
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
		COURSE_ARTIFACTS="$$folder" $(OFFLINE) $(BIN)/python -m course run --profile smoke

# Tests that time something, or wait for a page in a browser: other work beside them would make them fail.
ALONE := tests/course/service tests/chapter04_catalogue_reranker/constellation tests/common/test_evaluation.py \
	tests/common/pocket_shop/test_shop.py

test-slow: $(STAMP) ## the tests that `make check` leaves out: whole runs, real processes
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -q -m slow -n 2 $(ALONE:%=--ignore=%)
	$(OFFLINE) $(BIN)/python -m pytest -q -m slow $(ALONE)

check: lint test-unit ## lint, import floors and fast unit tests: for every commit

lint: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab

demo: $(STAMP) ## serve the shop, a page and an API, until Ctrl-C: make demo ARGS="--port 8000"
	@$(OFFLINE) $(BIN)/python -m course serve $(ARGS)

bench: $(STAMP) ## our fast paths beside the plain ones, in one run; keeps the rows in results/
	@$(BIN)/python -m course bench --save

requirements: $(STAMP) ## pin every version anew from pyproject.toml; UPGRADE=--upgrade for the newest
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 $(EXTRAS:%=--extra %) --no-emit-index-url $(UPGRADE) \
		pyproject.toml -o requirements.txt

clean: ## remove what was computed; the environment stays
	rm -rf artifacts .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
