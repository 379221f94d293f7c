# Everything a developer or a continuous-integration job does. Needs only make and Python >= 3.11.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# Every installation, also of build tools, keeps to the tested versions.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_INSTALL := $(BIN)/python -m pip install --quiet --editable
# One thread per test process: the processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
TREE := $(wildcard src tests tools docs benchmarks studies examples *.md *.toml *.yml *.cff Makefile)

.DEFAULT_GOAL := help
.PHONY: help demo test check check-style check-types check-imports check-words check-unused docs format coverage audit-power bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed  ## Train two small models on digits, evaluate both and compare them (a minute, no download of data)
	$(BIN)/vaelid train digits --out runs/demo
	$(BIN)/vaelid train digits --prior standard-normal --out runs/demo-standard-normal
	$(BIN)/vaelid evaluate runs/demo-standard-normal --samples 1000
	$(BIN)/vaelid evaluate runs/demo --samples 1000
	$(BIN)/vaelid compare runs/demo runs/demo-standard-normal
	@echo "pictures: runs/demo/figures"

test: $(VENV)/.installed-dev  ## Run all tests and docstring examples with coverage (JOBS=2 processes)
	$(PYTEST) -n $(JOBS) --cov

check: check-style check-types check-imports check-words check-unused docs  ## Run all checks of the source: the six below

check-style: $(VENV)/.installed-dev  ## Lint and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.installed-dev  ## Types (mypy, strict)
	$(BIN)/mypy

check-imports: $(VENV)/.installed-dev  ## Import rules, budgets and repeated code (tests/test_architecture.py)
	$(PYTEST) -q tests/test_architecture.py

check-words: $(VENV)/.installed-dev  ## Spelling, American English (codespell)
	$(BIN)/codespell $(TREE)

check-unused: $(VENV)/.installed-dev  ## Unused code (vulture)
	$(BIN)/vulture

docs: $(VENV)/.installed-dev  ## Build the documentation as a site, strictly: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/.installed-dev  ## Format the source and sort imports (ruff)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.installed-dev  ## Run the tests; list uncovered lines and write htmlcov/index.html
	$(PYTEST) -n $(JOBS) --cov --cov-report=term-missing --cov-report=html

audit-power: $(VENV)/.installed-dev  ## How often an audit is wrong: 100 seeds of every part (hours; goes on where it stopped)
	$(BIN)/python benchmarks/audit_power.py --jobs $(JOBS)

bench: build/bench-venv/.installed  ## Training beside pythae, plain PyTorch and Lightning (needs MNIST and a quiet quarter of an hour)
	OMP_NUM_THREADS=1 build/bench-venv/bin/python benchmarks/training_peers.py

clean:  ## Remove caches, build products and coverage files (keeps .venv and runs/)
	rm -rf build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# What is measured beside vaelid lives in an environment of its own, thrown away with `make clean`; it sees all of .venv.
build/bench-venv/.installed: benchmarks/peers.txt $(VENV)/.installed-dev
	@echo "Installing what vaelid is compared with into build/bench-venv ..."
	$(BIN)/python -m venv --clear build/bench-venv
	printf 'import site; site.addsitedir("%s")\n' $(CURDIR)/$(VENV)/lib/python3*/site-packages \
	  > $$(echo build/bench-venv/lib/python3*/site-packages)/all-of-venv.pth
	build/bench-venv/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vaelid needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing vaelid into $(VENV); the first time this takes minutes ..."
	$(PIP_INSTALL) .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) ..."
	$(PIP_INSTALL) '.[dev]'
	@touch $@
