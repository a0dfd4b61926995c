# AI Mass: one word for each thing a developer does. `make help` lists them.
#
# Everything is installed into .venv by the first target that needs it; a stamp file keeps later runs quick.
# Debian packages (python3-venv, mosquitto) are installed by apt when they are missing, with sudo only when not root.
# Where that cannot be done, the message says which package is missing and how to install it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp

# mosquitto lives in /usr/sbin, which is not in every user's PATH.
export PATH := $(PATH):/usr/sbin:/usr/local/sbin

.PHONY: help setup system demo test test-fast lint format bench soak clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=...      the interpreter that makes .venv (now: $(PYTHON); 3.11 or newer)"
	@echo "  ARGS=...        more arguments for demo, test and bench, e.g. make demo ARGS=--json"

demo: setup ## broker, cloud and two gateways as real processes; real digits; the broker killed in the middle
	@$(BIN)/aimass demo $(ARGS)

test: setup ## every test but the benchmarks and the soak runs
	@$(BIN)/python -m pytest -m "not bench and not soak" $(ARGS)

test-fast: setup ## unit and contract tests only: offline, no processes
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## format check, ruff, mypy, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the sources into the common form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## the benchmark table; also written to build/bench/bench.json
	@$(BIN)/python -m tests.bench $(ARGS)

soak: setup ## long chaos runs, until interrupted or their time is over
	@$(BIN)/python -m pytest -m soak --timeout 0 $(ARGS)

clean: ## remove what was built, not .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

setup: system $(STAMP)

# Checked by looking, each time: it costs a few milliseconds, and a package can be removed behind our back.
# Debian's mosquitto package starts a broker of its own; nothing here uses it, so it is stopped again if we brought it.
system:
	@missing=""; \
	command -v mosquitto >/dev/null || missing="mosquitto"; \
	if [ ! -e $(STAMP) ]; then \
	  command -v "$(PYTHON)" >/dev/null || { echo "missing: $(PYTHON). Install Python 3.11 or newer (apt-get install python3), or say PYTHON=/path/to/python." >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "too old: $$("$(PYTHON)" --version). Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	fi; \
	[ -z "$$missing" ] && exit 0; \
	sudo=""; [ "$$(id -u)" -eq 0 ] || sudo="sudo"; \
	how="missing Debian packages: $$missing. Install them with: apt-get install $$missing (as root)"; \
	command -v apt-get >/dev/null || { echo "$$how - there is no apt-get here; use this system's own package manager." >&2; exit 1; }; \
	[ -z "$$sudo" ] || command -v sudo >/dev/null || { echo "$$how - this user is not root and there is no sudo." >&2; exit 1; }; \
	echo "installing $$missing with apt"; \
	$(LOCKED) bash -c "$$sudo apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $$missing </dev/null" \
	  || { echo "apt failed. $$how" >&2; exit 1; }; \
	[ -e $(STAMP) ] || "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) still has no ensurepip and venv modules; install them for this interpreter, or say PYTHON=/usr/bin/python3." >&2; exit 1; }; \
	case "$$missing" in *mosquitto*) \
	  if [ -d /run/systemd/system ]; then $$sudo systemctl disable --now mosquitto >/dev/null 2>&1 || true; fi ;; esac

# Two makes at once (two terminals, a CI with several steps) take turns.
LOCKED := mkdir -p build && flock build/setup.lock

$(STAMP): pyproject.toml | system
	@$(LOCKED) bash -euo pipefail -c ' \
	  if [ $(STAMP) -nt pyproject.toml ]; then exit 0; fi; \
	  echo "installing AI Mass into $(VENV)"; \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV); \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]" \
	    || { echo "pip could not install the packages named in pyproject.toml; its message is above. The machine needs a reachable package index." >&2; exit 1; }; \
	  touch $(STAMP)'
