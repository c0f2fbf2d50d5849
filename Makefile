# Everything a person or CI runs. Needs Python 3.11 or newer, make and a package index; never root.
#   make demo    set up into .venv and run the main job
#   make test    set up and pass every check and test

# The first Python on the path that is new enough. Choose another with `make demo PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
LOCK := requirements/dev.txt
# The wheel is tested in an environment of its own, which never saw the tree.
WHEEL_VENV := .venv-wheel
WHEEL_BIN := $(CURDIR)/$(WHEEL_VENV)/bin
# The strict editable install is a folder of links under the import names. mypy runs inside it, so that it checks
# flows/ and tasks/ as prefect_fanout.flows and prefect_fanout.tasks.
LINKS = $(wildcard build/__editable__.*)
MYPY := $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
PACKAGE_DIRS := prefect_fanout flows tasks
PACKAGE_FILES = $(shell find $(PACKAGE_DIRS) -name '*.py' -o -name py.typed)
SCRIPT_DIRS := examples benchmarks deployments
PIP_INSTALL := install -qq --disable-pip-version-check --no-input

# The current folder stays off sys.path: `prefect_fanout/` in the tree is only a part of the package.
export PYTHONSAFEPATH := 1
# Prefect announces its telemetry at the first import on a terminal, and sends some; not from here.
export DO_NOT_TRACK := 1

# `make ui` keeps everything it needs here: the server's database, the logs, and the folder that the worker runs in.
UI_HOME := $(CURDIR)/.prefect
UI_PORT ?= 4200

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check format bench ui wheel lock clean FORCE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Set up and run the main job: a small site and 10 CSV files, both made on the spot
	@$(BIN)/fanout demo --out fanout-demo $(ARGS)

test: check $(WHEEL_VENV)/.installed ## Check, build the wheel, install it alone and run the tests against it
	$(WHEEL_BIN)/pytest $(ARGS)

setup: $(VENV)/.installed ## Create .venv with the locked packages and this project (strict editable)

check: setup ## Lint, formatting, types (strict) and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(LINKS) && $(MYPY) -p prefect_fanout
	cd $(LINKS) && MYPYPATH=$(CURDIR) $(MYPY) --explicit-package-bases $(addprefix $(CURDIR)/,$(SCRIPT_DIRS))
	$(BIN)/codespell

format: setup ## Sort the imports and format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup ## Run every benchmark beside its peers (minutes); ARGS="--markdown docs/performance.md" keeps the figures
	$(BIN)/python benchmarks/run.py $(ARGS)

ui: setup ## Start a server, both deployments and a worker; log in at the printed address, end with Ctrl-C
	@exec $(BIN)/python deployments/ui.py --home "$(UI_HOME)" --port $(UI_PORT)

lock: ## Renew requirements/dev.txt from the bounds in pyproject.toml
	rm -rf build/lock-venv
	$(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/pip $(PIP_INSTALL) uv
	build/lock-venv/bin/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --quiet \
		--extra dev --extra curl --extra dask --extra loky \
		--generate-hashes --no-emit-index-url --no-header --output-file $(LOCK)
	rm -rf build/lock-venv

wheel: dist/.built ## Build the sdist, and from it the wheel, into dist/

clean: ## Remove everything that make made
	rm -rf $(VENV) $(WHEEL_VENV) build dist fanout-demo .prefect *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- how the pieces are made -------------------------------------------------------------------------------------

# The two environments take their packages from the lock file; a changed lock starts them anew. The lock is also given
# as constraints: older pips (23.2 comes with Python 3.11) look for `name[extra]` without regard to the line for `name`.
$(VENV)/.locked $(WHEEL_VENV)/.locked: %/.locked: $(LOCK)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found. Install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing the locked packages into $* (about a minute, once) ..."
	@rm -rf $*
	@$(PYTHON) -m venv $*
	@$*/bin/pip $(PIP_INSTALL) --require-hashes -r $(LOCK) -c $(LOCK)
	@touch $@

# A strict editable install knows only the files that existed when it was made: this list changes when one is added,
# renamed or removed, and then the install below runs again.
$(VENV)/.sources: FORCE | $(VENV)/.locked
	@find $(PACKAGE_DIRS) -name '*.py' -o -name py.typed | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.installed: $(VENV)/.locked $(VENV)/.sources pyproject.toml
	@rm -rf build/__editable__.*
	@$(BIN)/pip $(PIP_INSTALL) --no-build-isolation --no-deps --config-settings editable_mode=strict --editable .
	@$(BIN)/pip check --disable-pip-version-check
	@touch $@

dist/.built: $(VENV)/.sources pyproject.toml README.md LICENSE $(PACKAGE_FILES)
	@rm -rf dist && mkdir -p build
	$(BIN)/pyproject-build --no-isolation --outdir dist . > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@touch $@

$(WHEEL_VENV)/.installed: $(WHEEL_VENV)/.locked dist/.built
	@$(WHEEL_BIN)/pip $(PIP_INSTALL) --force-reinstall --no-index --no-deps dist/*.whl
	@$(WHEEL_BIN)/pip check --disable-pip-version-check
	@touch $@
