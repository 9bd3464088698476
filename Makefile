# Everything a newcomer needs: `make demo`, then `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's own index of builds without CUDA: a fraction of the size, for machines without an NVIDIA GPU.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# The tests wait for processes of their own more than they reckon: a few at a time, on two cores too.
TESTS_AT_A_TIME ?= 3
PYTEST = $(BIN)/python -m pytest -n $(TESTS_AT_A_TIME)

.DEFAULT_GOAL := help
.PHONY: help demo install test test-fast check bench chaos docs wheel clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1: \2/p' Makefile

demo: $(VENV)/.installed ## a small search on the bundled digits, from nothing to the best network
	$(BIN)/eatnas-db demo

install: $(VENV)/.installed-dev ## .venv with the package (editable) and the tools of development

test: $(VENV)/.installed-dev ## the whole suite, the slow tests too
	$(PYTEST)

test-fast: $(VENV)/.installed-dev ## the everyday suite
	$(PYTEST) -m "not slow"

check: $(VENV)/.installed-dev ## what has to pass before a change is merged: linters, types, layers, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy migrations/*.py migrations/versions
	$(BIN)/lint-imports
	$(PYTEST)

bench: $(VENV)/.installed-dev ## the benchmarks, one after another
	@set -e; for file in benchmarks/*.py; do \
	  [ -e "$$file" ] || { echo "no benchmarks yet"; break; }; \
	  case "$$file" in benchmarks/chaos.py|benchmarks/scale*|benchmarks/synthetic_histories.py) continue;; esac; \
	  echo "== $$file"; $(BIN)/python "$$file"; \
	done

chaos: $(VENV)/.installed-dev ## a search undisturbed, then under 260 faults: the same, to the bit? goes on where it stopped
	$(BIN)/python benchmarks/chaos.py --out chaos.jsonl

docs: $(VENV)/.installed-dev ## the pages as a site, in site/index.html; broken links are errors
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(VENV)/.installed-dev ## dist/*.whl
	$(BIN)/python -m build --wheel

clean: ## remove the environment and whatever was built; searches (.eatnas) stay
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "eatnas-db needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) -V 2>&1 || true). Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A torch that cannot load its torchvision is worse than none: both go, and the next step brings a pair.
$(VENV)/.torch: | $(BIN)/python
	@works="$(BIN)/python -c 'import torch, torchvision'"; \
	if ! eval "$$works" 2>/dev/null && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	  echo "no NVIDIA GPU here: trying the CPU build of PyTorch first"; \
	  $(BIN)/python -m pip install --quiet --retries 0 --timeout 15 \
	    --index-url $(TORCH_CPU_INDEX) torch torchvision 2>/dev/null || true; \
	  eval "$$works" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torch torchvision; \
	fi
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@ $(VENV)/.installed
