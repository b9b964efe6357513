# Everything a person does with this repository. `make help` lists it.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export HALCYON_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/halcyon

PYTHON ?= python3
UV_VERSION := 0.13.8
# Tests start a thousand interpreters; each would compile what it imports, which takes longer than the rest of most of them.
unexport PYTHONDONTWRITEBYTECODE
UV := $(shell command -v uv 2>/dev/null || echo $(HALCYON_CACHE)/uv-$(UV_VERSION)/bin/uv)
BIN := .venv/bin

##@ General

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.synced ## Make the virtual environment (.venv) from uv.lock

.venv/.synced: pyproject.toml uv.lock | $(UV)
	@echo "==> virtual environment .venv from uv.lock"
	@$(UV) sync --frozen --extra dev --quiet --compile-bytecode
	@touch $@

$(HALCYON_CACHE)/uv-$(UV_VERSION)/bin/uv:
	@echo "==> uv $(UV_VERSION) into $(HALCYON_CACHE)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; set PYTHON=/path/to/python3" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(HALCYON_CACHE)/uv-$(UV_VERSION) \
		|| { echo "python3 -m venv does not work here: install the package python3-venv and try again"; exit 1; }
	@$(HALCYON_CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

##@ See it work

.PHONY: demo
demo: setup ## Train on a real Kubernetes, lose pods, and compare with an undisturbed run
	@$(BIN)/python -m halcyon_demo $(ARGS)

.PHONY: up
up: setup ## Start the development cluster
	@$(BIN)/python -m halcyon_devcluster up

.PHONY: down
down: setup ## Stop the development cluster and leave nothing behind
	@$(BIN)/python -m halcyon_devcluster down

##@ Check

.PHONY: test
test: setup ## Every promise once: checks, tests, and a real Kubernetes; prints what each part took
	@$(BIN)/python -m tests.suite

.PHONY: test-all
test-all: setup ## The further cases of each promise too: all hardware, all tools that read runs, all loops of kills
	@$(BIN)/python -m tests.suite --tier all

.PHONY: test-long
test-long: setup ## Hundreds of kills and flips, for many minutes
	@$(BIN)/python -m tests.suite --tier long

.PHONY: test-fast
test-fast: setup ## Of `make test`: what needs one process (two minutes)
	@$(BIN)/python -m tests.suite fast

.PHONY: test-unit
test-unit: setup ## Of `make test`: what needs no cluster
	@$(BIN)/python -m tests.suite fast slow

.PHONY: test-cluster
test-cluster: setup ## Of `make test`: what needs the development cluster (root where there is no Docker)
	@$(BIN)/python -m tests.suite cluster alone

.PHONY: reliability
reliability: setup ## Make the table of docs/reliability.md by running its tests (LONG=1: the long suite too)
	@$(BIN)/pytest -q -n 2 --dist loadfile -m "fault and not cluster $(if $(LONG),,and not long)" --reliability docs/reliability.md tests/faults
	@$(BIN)/pytest -q -m "fault and cluster" --reliability docs/reliability.md tests/cluster

.PHONY: mutations
mutations: setup ## Break the engine on purpose and see which row of docs/reliability.md fails
	@$(BIN)/python -m tests.faults.mutations --page docs/reliability.md

.PHONY: mistakes
mistakes: setup ## Make every mistake of docs/mistakes.md, and write what is answered
	@$(BIN)/python -m tests.mistakes

.PHONY: churn
churn: setup ## 200 random faults in ten minutes among forty runs of fake pods; every run ends in its right state
	@$(BIN)/python tests/bench/churn.py $(ARGS)

.PHONY: check
check: setup ## Format, lint, types, layers, and that generated files are fresh
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --warnings
	@$(BIN)/lint-imports --no-cache | tail -n 4
	@$(BIN)/python -m halcyon_api.generate --check
	@$(BIN)/python -m halcyon_dashboards.generate --check

.PHONY: bench
bench: setup ## Print the figures of tests/bench, measured as pairs in one run
	@for bench in tests/bench/bench_*.py; do echo "==> $$bench"; $(BIN)/python $$bench; done

##@ Change

.PHONY: format
format: setup ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

.PHONY: generate
generate: setup ## Write the CRD and the reference from the types, dashboards and alerts from their code
	@$(BIN)/python -m halcyon_api.generate
	@$(BIN)/python -m halcyon_dashboards.generate
	@$(BIN)/python -m halcyon.telemetry.reference > docs/reference/metrics.md
	@$(BIN)/python -m halcyon_operator.decide.recovery_reference > docs/reference/recovery.md
	@$(BIN)/python -m tests.suite.generate

.PHONY: pictures
pictures: setup ## Draw the pictures of docs/guides anew, by the tests that see what they show
	@HALCYON_PICTURES=$(CURDIR)/docs/guides $(BIN)/pytest -q tests/gitops/test_argocd.py tests/cluster/test_command_line.py \
		tests/cluster/test_gitops.py tests/cluster/test_monitoring.py

.PHONY: clean
clean: ## Remove the virtual environment and caches of this checkout
	@rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .halcyon
