# Everything a user or developer runs; needs Python 3.11 or newer, pip and make.
#   make demo                  the operator's session with the whole control system
#   make PYTHON=python3.12 …   another interpreter
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo-output
PYTEST_ARGS ?= -n 2 --dist loadscope
BENCH_ARGS ?=
LOCK_ARGS ?=
LONG_ARGS ?=
CLUSTER_ARGS ?= -n 2 --dist loadfile
IMAGE ?= batch-imaging:dev

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_COMPILE = $(BIN)/uv --quiet pip compile pyproject.toml $(LOCK_ARGS) \
	--universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-cluster lint bench format lock clean distclean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(STAMP) ## the operator's session on this machine; everything is in demo-output
	PYTHON=$(abspath $(BIN)/python) examples/demo.sh $(OUTPUT)

test: $(STAMP) ## unit and integration tests (PYTEST_ARGS="-k name" to choose)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-cluster: $(STAMP) ## charts and the whole system on the cluster that KUBECONFIG names (IMAGE=name:tag)
	BATCH_IMAGING_IMAGE=$(IMAGE) $(BIN)/python -m pytest tests/charts tests/cluster \
		-m "cluster or not cluster" $(CLUSTER_ARGS)

test-long: $(STAMP) ## batch systems (those that are installed), notebooks, services killed at every stage
	$(BIN)/python -m pytest -m long --timeout-method=signal $(LONG_ARGS)

lint: $(STAMP) ## static checks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

bench: $(STAMP) ## benchmarks
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

format: $(STAMP) ## let ruff repair and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(STAMP) ## pin the dependencies again (LOCK_ARGS=--upgrade for newer releases)
	$(UV_COMPILE) --output-file requirements.lock --extra control --extra metrics
	$(UV_COMPILE) --output-file requirements-dev.lock \
		--constraints requirements.lock --all-extras --group dev

clean: ## remove results, caches and build products, keep the environment
	rm -rf $(OUTPUT) build dist .coverage .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache dask-worker-space dask-scratch-space
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove the environment too
	rm -rf $(VENV)

# Only wheels: a platform without one gets a clear refusal, not a half-hour build that fails.
# etcd3-fc alone is published as source; it is plain Python.
$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 …' >&2; exit 1; }
	@echo 'Setting up $(VENV) (a minute or two the first time)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --only-binary :all: --no-binary etcd3-fc \
		--requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
