# `make` shows what there is. A fresh machine needs Python 3.11 with venv, git and make; the browser tests also need
# node, npm and chromium, and pykka's own tests the package index, once (they are skipped, and say so, where those are
# missing; with CI=true that is a failure).

# The first that runs, is new enough and can make environments (a version manager's stand-in may exist and yet not run).
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  $$name -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PORT ?= 7860
HOST ?= 127.0.0.1
SECONDS ?= 60
ARGS ?=
SEEDS ?= 10000

VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
E2E := tests/e2e
SIMULATED := tests/simulated
NPM := $(shell command -v npm 2>/dev/null)
NODE_MODULES := $(if $(NPM),$(E2E)/node_modules/.stamp)
PACKAGING := setup.cfg pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help run test simulate e2e pykka-suite lint format types bench soak clean

help:  ## show this
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 13

run: $(VENV)/run.stamp  ## serve the echo bot with its page (PORT=7860 HOST=127.0.0.1)
	$(BIN)/rtvi-actors serve examples/echo_bot.py:EchoBot --demo --host $(HOST) --port $(PORT) $(ARGS)

test: $(VENV)/dev.stamp $(NODE_MODULES)  ## the whole suite, browser tests included (ARGS='-k name')
	$(BIN)/python -m pytest $(ARGS)

simulate: $(VENV)/dev.stamp  ## the simulated tests on many seeds (SEEDS=10000)
	$(BIN)/python -m pytest $(SIMULATED) --rtvi-seeds=$(SEEDS) $(ARGS)

e2e: $(VENV)/dev.stamp $(NODE_MODULES)  ## the browser tests alone
	$(BIN)/python -m pytest $(E2E) $(ARGS)

pykka-suite: $(VENV)/dev.stamp  ## pykka's own tests, fetched, on this runtime
	$(BIN)/python -m pytest tests/pykka_suite $(ARGS)

lint: $(VENV)/dev.stamp  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp  ## mypy --strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(BENCH_VENV)/bench.stamp  ## in process, beside Pipecat's RTVIProcessor; and the runtime's own costs
	$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

soak: $(VENV)/dev.stamp  ## memory under ten times overload (SECONDS=60 of each scenario)
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS) $(ARGS)

clean:  ## remove environments, caches and what the tests made
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf $(E2E)/node_modules $(E2E)/clients/*/node_modules $(E2E)/.build $(E2E)/screenshots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- environments: a stamp each, made anew when the packaging changes ------------

$(VENV)/bin/python:
	$(call make-venv,$(VENV))

$(BENCH_VENV)/bin/python:
	$(call make-venv,$(BENCH_VENV))

$(VENV)/run.stamp: $(PACKAGING) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[server,prebuilt]'
	@touch $@

$(VENV)/dev.stamp: $(PACKAGING) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/run.stamp

$(BENCH_VENV)/bench.stamp: $(PACKAGING) | $(BENCH_VENV)/bin/python
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(E2E)/node_modules/.stamp: $(E2E)/package.json $(E2E)/package-lock.json $(wildcard $(E2E)/clients/*/package.json)
	cd $(E2E) && npm ci --silent --no-audit --no-fund
	@touch $@

define make-venv
	@test -n "$(PYTHON)" \
	  || { echo 'Needs Python 3.11 or newer with venv (on Debian: apt-get install python3-venv).' >&2; exit 1; }
	@echo 'making $(1) (the first time takes a minute)'
	@$(PYTHON) -m venv $(1)
endef
