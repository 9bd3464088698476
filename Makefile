# To begin: `make demo`, then `make test`. `make help` lists all targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The index of PyTorch builds without CUDA, which are much smaller. Machines without an NVIDIA GPU use it.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# The devices for which `make image` installs PyTorch: cpu or cuda.
DEVICE ?= cpu

# Tests mostly wait for their child processes, so more tests than cores can run at the same time.
TEST_PROCESSES ?= 3
# A process that has no tests left takes some from another one; until then tests of one file share their fixtures.
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal
# The tests whose kernels depend on the processor's instructions.
AVX2_TESTS = $(addprefix tests/training/test_,loop.py network.py new_layers.py parent_weights.py steps.py weight_transfer.py)
BENCHMARKS = cold_start transaction_cost supervision tracking streaming training

.DEFAULT_GOAL := help
.PHONY: help demo install test test-fast test-avx2 check bench chaos soak docs wheel image clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1: \2/p' Makefile

demo: $(VENV)/.installed ## run a small search on the bundled digits, from installation to the best network
	$(BIN)/eatnas-db demo

install: $(VENV)/.installed-dev ## install the package (editable) and the development tools in .venv

test: $(VENV)/.installed-dev ## run all tests, including the slow ones
	$(PYTEST)

test-fast: $(VENV)/.installed-dev ## run all tests but the slow ones
	$(PYTEST) -m "not slow"

test-avx2: $(VENV)/.installed-dev ## run the tests of networks and training steps as on processors without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m "not slow" $(AVX2_TESTS)

check: $(VENV)/.installed-dev ## run everything that a change must pass: linters, type checks, import layers, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy migrations/*.py migrations/versions
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/reproducibility.py
	$(MAKE) --no-print-directory test-avx2
	$(PYTEST)

bench: $(VENV)/.installed-dev ## run the benchmarks one after another
	@set -e; for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python "benchmarks/$$name.py"; \
	done

chaos: $(VENV)/.installed-dev ## compare searches under 260 faults with undisturbed ones, to the bit; can be interrupted
	$(BIN)/python benchmarks/soak.py --steps chaos

soak: $(VENV)/.installed-dev ## run the checks that take hours: storms, sweeps, many seeds; can be interrupted
	$(BIN)/python benchmarks/soak.py

docs: $(VENV)/.installed-dev ## build the documentation in site/index.html; broken links are errors
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(VENV)/.installed-dev ## build the wheels of eatnas-db and eatnas-db-core in dist/
	for name in eatnas-db-core eatnas-db; do $(BIN)/python -m build --wheel --outdir dist distributions/$$name || exit 1; done

image: wheel ## build the container image eatnas-db:cpu, or eatnas-db:cuda with DEVICE=cuda; needs docker
	docker build --file docker/Dockerfile --build-arg DEVICE=$(DEVICE) --tag eatnas-db:$(DEVICE) .

clean: ## remove .venv and everything that was built, but not the searches in .eatnas
	rm -rf $(VENV) build dist site *.egg-info distributions/*/build distributions/*/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "eatnas-db needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) -V 2>&1 || true). Choose another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# If torch and torchvision do not match, both are removed, and the next step installs a pair that does.
$(VENV)/.torch: | $(BIN)/python
	@works="$(BIN)/python -c 'import torch, torchvision'"; \
	reachable="$(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2)' $(TORCH_CPU_INDEX)/torch/"; \
	if ! eval "$$works" 2>/dev/null && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null \
	    && eval "$$reachable" 2>/dev/null; then \
	  echo "No NVIDIA GPU found: installing the CPU build of PyTorch (about 200 MB)"; \
	  $(BIN)/python -m pip install --progress-bar on --retries 0 --timeout 15 \
	    --index-url $(TORCH_CPU_INDEX) torch torchvision || true; \
	  eval "$$works" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torch torchvision; \
	fi
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "Installing eatnas-db and its dependencies; this takes a few minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@ $(VENV)/.installed
