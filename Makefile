PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STUBS := citadel/_wire


.PHONY: help setup demo test test-fast lint format stubs lock clean

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
