# `make demo` and `make test` do all the set-up: a virtual environment in .venv, with the versions of constraints.txt.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-browser bench docs dist audit fmt clean
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Builds of torch without CUDA, taken where there is no NVIDIA GPU: PyPI's build for Linux brings several GB of it. Empty: never.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# What pyproject.toml calls extras; deploy/Dockerfile leaves out what only developers need.
EXTRAS ?= dev

# Files of tests go to processes, one more than two cores, since many tests wait; each has a small Ray cluster of its own.
SIDE_BY_SIDE := -n 3 --dist loadfile

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## Make .venv with the pinned versions (all other targets do it by themselves)

demo: $(READY)  ## Make data, train all stages, generate and report; MEDIA=folder takes your own clips
	@$(BIN)/mutual-forcing train demo $${MEDIA:+--media "$$MEDIA"}

test: $(READY)  ## Lint, types and tests, as continuous integration runs them
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/pytest -m "not slow and not browser" $(SIDE_BY_SIDE)

test-slow: $(READY)  ## The tests marked slow: whole runs, interrupted, killed and starved; takes long
	$(BIN)/pytest -m "slow and not browser"

test-browser: $(READY)  ## Tests that look at pages in a headless Chromium
	$(BIN)/pytest -m browser

bench: $(READY)  ## A quick benchmark of the model, as one JSON line
	@$(BIN)/mutual-forcing bench model --quick --json

docs: $(READY)  ## Build the documentation into build/docs/index.html; a broken link is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	@echo "build/docs/index.html"

# Advisories that do not concern this program, each with its reason in a line of its own, `# NAME: why`.
AUDIT_IGNORED :=

audit: $(READY)  ## Compare the pinned versions with the published advisories (needs a network)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(addprefix --ignore-vuln ,$(AUDIT_IGNORED))

dist: $(READY)  ## Build the wheel and the source distribution into dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist . >.venv/dist.log 2>&1 || { tail -n 20 .venv/dist.log >&2; exit 1; }
	@ls dist

fmt: $(READY)  ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove .venv, caches and build output; runs/ and prepared/ stay
	rm -rf .venv build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# Does this URL answer within 3 seconds? The alarm also ends a name look-up, which no timeout of Python reaches.
ANSWERS := import signal, sys, urllib.request; signal.alarm(3); urllib.request.urlopen(sys.argv[1])

# The stamp is written last: an install that was interrupted is done again.
$(READY): pyproject.toml constraints.txt
	@rm -f $@
	@if ! { $(BIN)/python -c '$(SUPPORTED)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	  $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
	    echo "error: Python 3.11, 3.12 or 3.13 is needed, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1); name one: make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' cannot make virtual environments; install the package python3-venv of your system" >&2; exit 1; }; \
	  echo "Making .venv with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear .venv; \
	fi
	@echo "Installing the versions of constraints.txt into .venv (some minutes, once; log: .venv/install.log)"
	@if [ -n '$(TORCH_CPU_INDEX)' ] && [ ! -e /dev/nvidiactl ] && [ "$$(uname -s)" = Linux ] \
	  && $(BIN)/python -c '$(ANSWERS)' '$(TORCH_CPU_INDEX)/torch/' >/dev/null 2>&1; then \
	  echo "No NVIDIA GPU here: taking torch from $(TORCH_CPU_INDEX)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 0 --no-deps --index-url '$(TORCH_CPU_INDEX)' \
	    "$$(grep '^torch==' constraints.txt)" >.venv/torch.log 2>&1 || echo "It is not there for this machine (log: .venv/torch.log); going on without"; \
	fi
	@# The variables reach the isolated builds of source packages too, which the option -c does not.
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' >.venv/install.log 2>&1 || { \
	    tail -n 20 .venv/install.log >&2; echo "error: the install failed (above: the end of .venv/install.log); check the network and run make again" >&2; exit 1; }
	@mkdir -p .venv/src
	@ln -sfn ../.. .venv/src/mutual_forcing
	@touch $@
