# The commands of this repository. `make help` lists them.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export HALCYON_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/halcyon

# The newest interpreter on PATH, of pyenv or of uv: the trainer needs Python 3.12. Empty: uv chooses, or downloads one.
PYTHON ?= $(shell for version in 3.13 3.12 3.11; do \
	for found in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python3 \
	"$$($(UV) python find --system $$version 2>/dev/null)"; do \
	"$$found" -c "" 2>/dev/null && { "$$found" -c "import sys; print(sys.executable)"; exit; }; done; done)
UV_VERSION := 0.13.8
# Tests start a thousand interpreters. Without byte code, most of them would spend more time on compiling their imports than on the test.
unexport PYTHONDONTWRITEBYTECODE
UV := $(shell command -v uv 2>/dev/null || echo $(HALCYON_CACHE)/uv-$(UV_VERSION)/bin/uv)
BIN := .venv/bin
TRANSFORMERS := 5.23.0
TORCH := 2.15.0
PEFT := 0.21.2
BITSANDBYTES := 0.50.2
LM_EVAL := 0.4.13
LITELLM := 1.110.2
CLIENTS = $(HALCYON_CACHE)/lm-eval-$(LM_EVAL)-litellm-$(LITELLM)
PARITY = $(HALCYON_CACHE)/transformers-$(TRANSFORMERS)-torch-$(TORCH)

##@ General

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.synced ## Create the virtual environment (.venv) from uv.lock

.venv/.synced: pyproject.toml uv.lock | $(UV)
	@echo "==> virtual environment .venv from uv.lock"
	@$(UV) sync --frozen --extra dev --quiet --compile-bytecode $(addprefix --python ,$(PYTHON))
	@$(BIN)/python -c 'import sys; sys.version_info >= (3, 12) or print("==> Python 3.11 has the operator and the commands about runs, but no trainer; install Python 3.12 or 3.13")'
	@touch $@

$(HALCYON_CACHE)/uv-$(UV_VERSION)/bin/uv:
	@echo "==> uv $(UV_VERSION) into $(HALCYON_CACHE)"
	@$(or $(PYTHON),python3) -c 'import sys; sys.exit("Python 3.11 or later is needed; set PYTHON=/path/to/python3" if sys.version_info < (3, 11) else 0)'
	@$(or $(PYTHON),python3) -m venv $(HALCYON_CACHE)/uv-$(UV_VERSION) \
		|| { echo "python3 -m venv does not work here: install the package python3-venv and try again"; exit 1; }
	@$(HALCYON_CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

##@ See it work

.PHONY: demo
demo: setup ## Train on a real Kubernetes, lose pods, and compare with an undisturbed run (ARGS=--slurm: on SLURM)
	@$(BIN)/python -m halcyon_demo $(ARGS)

.PHONY: chat
chat: setup ## Train a chat model from the text of this machine, and talk with it; goes on where it was stopped (ARGS=--fresh)
	@$(BIN)/python -m halcyon_chat $(ARGS)

.PHONY: up
up: setup ## Start the development cluster
	@$(BIN)/python -m halcyon_devcluster up

.PHONY: down
down: setup ## Stop the development cluster and leave nothing behind
	@$(BIN)/python -m halcyon_devcluster down

##@ Check

.PHONY: test
test: setup ## Test every promise once (about 18 minutes): checks, tests, and a real Kubernetes; prints the duration of each part
	@$(BIN)/python -m tests.suite

.PHONY: test-all
test-all: setup ## Test also the further cases of each promise: all hardware, all tools that read runs, all loops of kills
	@$(BIN)/python -m tests.suite --tier all

.PHONY: test-long
test-long: setup ## Run hundreds of kills and bit flips, for many minutes
	@$(BIN)/python -m tests.suite --tier long

.PHONY: test-fast
test-fast: setup ## The part of `make test` that needs one process (2 minutes)
	@$(BIN)/python -m tests.suite fast

.PHONY: test-operator
test-operator: setup ## The part of `make test-fast` that needs no trainer: operator, contract and command line, on Python 3.11 too
	@$(BIN)/pytest -q -n 2 -m "not slow and not cluster and not variant and not long" tests/api tests/cli tests/operator

.PHONY: test-unit
test-unit: setup ## The part of `make test` that needs no cluster (about 9 minutes)
	@$(BIN)/python -m tests.suite fast slow

.PHONY: test-cluster
test-cluster: setup ## The part of `make test` that needs the development cluster (and root if there is no Docker)
	@$(BIN)/python -m tests.suite cluster alone

.PHONY: reliability
reliability: setup ## Write the table of docs/reliability.md by running its tests (LONG=1: also the long tests)
	@$(BIN)/pytest -q -n 2 --dist loadfile -m "fault and not cluster $(if $(LONG),,and not long)" --reliability docs/reliability.md tests/faults
	@$(BIN)/pytest -q -m "fault and cluster" --reliability docs/reliability.md tests/cluster

.PHONY: mutations
mutations: setup ## Break the code on purpose and show which row of docs/reliability.md fails (ARGS="1 2": only these)
	@$(BIN)/python -m tests.faults.mutations $(ARGS)

.PHONY: parity
parity: setup ## Compare random models, adapters, templates, tokenizers, weights in few bits and exports with transformers, peft and bitsandbytes, which it installs (DRAWS=2 SEED=0 FAMILIES="llama …")
	@test -e $(PARITY)/.ready || { $(UV) venv --quiet --clear $(PARITY) && $(UV) pip install --quiet --python $(PARITY) torch==$(TORCH) \
		transformers==$(TRANSFORMERS) && touch $(PARITY)/.ready; }
	@test -e $(PARITY)/.peft-$(PEFT) || { $(UV) pip install --quiet --python $(PARITY) peft==$(PEFT) torch==$(TORCH) \
		transformers==$(TRANSFORMERS) && touch $(PARITY)/.peft-$(PEFT); }
	@test -e $(PARITY)/.bitsandbytes-$(BITSANDBYTES) || { $(UV) pip install --quiet --python $(PARITY) --no-deps \
		bitsandbytes==$(BITSANDBYTES) && touch $(PARITY)/.bitsandbytes-$(BITSANDBYTES); }
	@rm -rf .halcyon/parity
	@$(PARITY)/bin/python -m tests.parity.draw .halcyon/parity --draws $(or $(DRAWS),2) --seed $(or $(SEED),0) $(FAMILIES)
	@$(BIN)/python -m tests.parity.compare .halcyon/parity
	@$(PARITY)/bin/python -m tests.parity.draw .halcyon/parity --check
	@$(PARITY)/bin/python -m tests.trainer.weights.runs.make --check
	@$(PARITY)/bin/python -m tests.parity.templates.make --check
	@$(PARITY)/bin/python -m tests.parity.rotary --check
	@$(PARITY)/bin/python -m tests.parity.adapters --check
	@$(PARITY)/bin/python -m tests.parity.narrow --check
	@$(BIN)/python -m tests.parity.exports .halcyon/parity/exports
	@$(PARITY)/bin/python -m tests.parity.read_exports .halcyon/parity/exports

.PHONY: clients
clients: setup ## Ask `halcyon serve` with lm-eval and litellm, which it installs
	@test -e $(CLIENTS)/.ready || { $(UV) venv --quiet --clear $(CLIENTS) && $(UV) pip install --quiet --python $(CLIENTS) \
		"lm-eval[api]==$(LM_EVAL)" litellm==$(LITELLM) transformers==$(TRANSFORMERS) && touch $(CLIENTS)/.ready; }
	@HALCYON_CLIENTS=$(CLIENTS)/bin/python $(BIN)/pytest -q -n 0 tests/clients/asking.py $(ARGS)

# The compilers of all accelerators: about 7 GB, into an environment of their own. ARGS=--page writes docs/programs.md instead of testing.
PROGRAMS = $(HALCYON_CACHE)/programs-$(shell sha256sum uv.lock | cut -c 1-12)
SOURCES = cli:crds:operator:tools:trainer:.

.PHONY: programs
programs: $(UV) ## Compile training steps for TPUs and GPUs that are not there, and test what is in them (ARGS=--page writes docs/programs.md)
	@test -e $(PROGRAMS)/.ready || { echo "==> environment with the compilers of accelerators into $(PROGRAMS)"; \
		UV_PROJECT_ENVIRONMENT=$(PROGRAMS) $(UV) sync --frozen --quiet --no-install-project --extra dev --extra cuda --extra tpu \
		$(addprefix --python ,$(PYTHON)) && touch $(PROGRAMS)/.ready; }
	@PYTHONPATH=$(SOURCES) $(PROGRAMS)/bin/python $(if $(filter --page,$(ARGS)),-m tests.programs.page,-m pytest -q -n \
		$(shell expr \( $$(nproc) + 1 \) / 2) --dist loadgroup -m programs $(ARGS) tests/programs)

.PHONY: mistakes
mistakes: setup ## Make every mistake of docs/mistakes.md and write the answers into it
	@$(BIN)/python -m tests.mistakes

.PHONY: hostile
hostile: setup ## Give every input of tests/hostile to the program and keep the answers in answers.json
	@$(BIN)/python -m tests.hostile

.PHONY: churn
churn: setup ## Inject 200 random faults in ten minutes into forty runs with fake pods; checks the end state of every run
	@$(BIN)/python tests/bench/churn.py $(ARGS)

.PHONY: check
check: setup ## Check format, lint, types, layers, and that generated files are up to date
	@$(MAKE) --jobs 2 --output-sync=target check-types check-style

# Pyright uses one core, so the rest runs beside it.
.PHONY: check-types
check-types:
	@$(BIN)/pyright --warnings

.PHONY: check-style
check-style:
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-cache | tail -n 4
	@$(BIN)/python -m halcyon_api.generate --check
	@$(BIN)/python -m halcyon_dashboards.generate --check
	@$(BIN)/python -m tests.suite.house
	@# Import every test once: a file that cannot be imported is named here, and the workers of the tests find its byte code.
	@$(BIN)/python -m pytest --collect-only --quiet tests | grep -E "^(ERROR|E  )|collected"

.PHONY: house
house: setup ## Print how heavy the repository is, with the limits that `make check` holds
	@$(BIN)/python -m tests.suite.house

.PHONY: bench
bench: setup ## Print the figures of tests/bench, measured in pairs in one run (ARGS=--keep writes tests/bench/results)
	@$(BIN)/python tests/bench/run.py $(ARGS)

# The packages of JAX and torch for CUDA come beside the locked ones, into an environment of their own.
ACCELERATOR = $(HALCYON_CACHE)/accelerator-$(shell sha256sum uv.lock | cut -c 1-12)

.PHONY: accelerator
accelerator: $(UV) ## Measure Halcyon on the GPU of this machine, in about ten minutes (ARGS="--only attention,llama-8192-apart")
	@test -e $(ACCELERATOR)/.ready || { echo "==> environment with JAX and torch for CUDA into $(ACCELERATOR)"; \
		$(UV) venv --quiet --clear $(addprefix --python ,$(PYTHON)) $(ACCELERATOR) && \
		$(UV) export --quiet --frozen --extra trainer --extra kernels --no-emit-project --no-hashes > $(ACCELERATOR)/locked.txt && \
		$(UV) pip install --quiet --python $(ACCELERATOR) --no-deps --requirement $(ACCELERATOR)/locked.txt && \
		$(UV) pip install --quiet --python $(ACCELERATOR) --constraint $(ACCELERATOR)/locked.txt "jax[cuda13]" torch && touch $(ACCELERATOR)/.ready; }
	@mkdir -p .halcyon && $(ACCELERATOR)/bin/python tests/accelerator/run.py --rows .halcyon/accelerator.jsonl $(ARGS)

.PHONY: accelerator-page
accelerator-page: setup ## Write the rows of tests/accelerator/results into docs/performance.md
	@mkdir -p .halcyon && cat tests/accelerator/results/*.jsonl > .halcyon/results.jsonl
	@$(BIN)/python tests/accelerator/run.py --rows .halcyon/results.jsonl --page docs/performance.md

##@ Change

.PHONY: format
format: setup ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

.PHONY: generate
generate: setup ## Write all generated files: CRDs, reference, dashboards, alerts, docs/chat-templates.md, docs/testing.md
	@$(BIN)/python -m halcyon_api.generate
	@$(BIN)/python -m halcyon_dashboards.generate
	@$(BIN)/python -m halcyon.telemetry.reference > docs/reference/metrics.md
	@$(BIN)/python -m halcyon_operator.decide.next.recovery_reference > docs/reference/recovery.md
	@$(BIN)/python -m halcyon_operator.run.reference docs/reference/operator.md
	@$(BIN)/python -m tests.parity.templates.page
	@$(BIN)/python -m tests.operator.threats
	@$(BIN)/python -m tests.suite.generate
	@$(BIN)/python docs/make_fits.py
	@$(BIN)/python docs/make_api.py
	@$(BIN)/python docs/make_commands.py
	@$(BIN)/python docs/make_levanter.py

.PHONY: schemas
schemas: setup ## Write the JSON schemas of a release into .halcyon/schema, for editors and kubeconform
	@$(BIN)/python -m halcyon_api.generate --schemas .halcyon/schema

DOCS = $(HALCYON_CACHE)/docs-$(shell sha256sum uv.lock | cut -c 1-12)

.PHONY: docs
docs: $(UV) ## Build the site of the documentation into .halcyon/site/html, and fail at a link that leads nowhere (ARGS="--repository URL")
	@UV_PROJECT_ENVIRONMENT=$(DOCS) $(UV) sync --frozen --quiet --only-group docs $(addprefix --python ,$(PYTHON))
	@PATH=$(DOCS)/bin:$$PATH python docs/make_site.py .halcyon/site $(ARGS)

.PHONY: pictures
pictures: setup ## Draw the pictures of docs/guides again, by the tests that produce their data
	@HALCYON_PICTURES=$(CURDIR)/docs/guides $(BIN)/pytest -q tests/gitops/test_argocd.py tests/cluster/test_command_line.py \
		tests/cluster/test_gitops.py tests/page/test_picture.py tests/walks/test_captures.py

.PHONY: clean
clean: ## Remove the virtual environment and caches of this checkout
	@rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .halcyon
