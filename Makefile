PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KUBE_TOOLS = PYTHON=$(CURDIR)/$(BIN)/python tests/kube_tools/get.sh
HAS_KUBERNETES = tests/kube_apiserver/build.sh --find >/dev/null && tests/kube_tools/get.sh --find >/dev/null \
	&& command -v etcd >/dev/null
KUBERNETES = $(BIN)/pytest tests/kubernetes -m 'not soak' --numprocesses=2 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kubernetes soak lint conformance bench format stubs manifests lock clean

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Install the pinned, hashed packages into .venv.

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON), once: about 930 MB, and half a minute to three without a word."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## Run the main job with real Envoys; KEEP=1 leaves it running, VAULT=1 has the root in an OpenBao.
	@$(BIN)/citadel demo $(if $(KEEP),--keep) $(if $(VAULT),--vault)

test: $(READY) ## Run every test, real Envoys included; ALL=1 fails where some cannot be run.
	$(BIN)/pytest tests/unit tests/conformance --numprocesses=2 --dist=loadfile
	$(BIN)/pytest tests/integration -m 'not soak and not alone and not pairs' --numprocesses=3 --dist=loadfile
	$(BIN)/pytest tests/integration -m 'pairs and not soak' --numprocesses=2 --dist=loadfile
	$(BIN)/pytest tests/integration -m 'alone and not soak'
	@if $(HAS_KUBERNETES); then $(KUBERNETES); \
		else echo "not run: tests/kubernetes, which need an API server and helm: make test-kubernetes"; $(if $(ALL),false,true); fi

test-kubernetes: $(READY) ## Build or find a real API server of Kubernetes, with helm, and run what needs them (needs go and etcd).
	@tests/kube_apiserver/build.sh
	@$(KUBE_TOOLS)
	$(KUBERNETES)

soak: $(READY) ## Rotate for minutes under load, and say the figures (about 11 minutes).
	@$(HAS_KUBERNETES) || echo "not run: those in tests/kubernetes, which need an API server and helm: make test-kubernetes"
	$(BIN)/pytest -m soak -s $$($(HAS_KUBERNETES) || echo --ignore=tests/kubernetes)

lint: $(READY) ## Check style, types, the arrows between rooms, and the generated stubs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory stubs OUT=$(VENV)/stubs
	@for file in $(VENV)/stubs/citadel/_wire/*; do \
		cmp "$$file" "citadel/_wire/$${file##*/}" || { echo "generated stubs are stale: make stubs"; exit 1; }; \
	done

conformance: $(READY) ## Run the tests that show the SPIFFE checklist, and print it as a table.
	@$(BIN)/python -m tests.conformance

bench: $(READY) ## Measure speed and memory: a table, bench.json and pictures (about 15 minutes; QUICK=1 for less).
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick)

format: $(READY) ## Format the code.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

OUT := .
stubs: $(READY) ## Generate the gRPC stubs from citadel/_wire/*.proto.
	@mkdir -p $(OUT)
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=$(OUT) --grpc_python_out=$(OUT) \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(OUT) \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$(OUT) \
		citadel/_wire/*.proto

manifests: $(READY) ## Render deploy/kubernetes/ from the chart.
	@$(KUBE_TOOLS) >/dev/null
	@$(BIN)/python -m tests.chart

COMPILE = uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --python-version 3.11
lock: ## Pin the newest versions with their hashes (needs uv).
	$(COMPILE) --extra dev pyproject.toml --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock --extra kubernetes --extra postgres --extra vault pyproject.toml \
		--output-file deploy/image/runtime.lock
	echo hatchling | $(COMPILE) --constraint requirements.lock - --output-file deploy/image/build.lock

clean: ## Remove what was made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
