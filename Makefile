# `make demo` shows a rollout. `make test` checks everything. Both need Python 3.10 or newer, and make.
PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# Development dependencies are a dependency group, which pip reads from version 25.1 on.
NEWER_PIP := $(PIP_INSTALL) --upgrade 'pip>=25.1'
# pyright looks for the python on PATH; it verifies types only of what PYTHONPATH or an installation holds.
ACTIVATED := PATH="$(CURDIR)/$(BIN):$$PATH"
PROOF := tests/sim tests/replay tests/chaos tests/server/test_rehearse.py \
	$(addprefix tests/unit/,test_rehearsal.py test_simulated_fleet.py test_fleet_machine.py test_check_invariants.py)
TYPED := src $(wildcard tests/typing examples)

.DELETE_ON_ERROR:
.PHONY: help demo workshop pictures docs test all lint format types tests proof simulate planted chaos soak mutate test-lowest test-pythons clean

help:
	@echo 'make demo          a rollout on this machine, with approval, waves and a failing host'
	@echo 'make workshop      the workshop, all exercises; EXERCISE=3 chooses'
	@echo 'make docs          the documentation, in build/docs'
	@echo 'make pictures      the pictures of the documentation, made anew; needs Chromium'
	@echo 'make test          lint, types and tests'
	@echo 'make tests         only the tests; PYTEST_ARGS="tests/unit -k gather" chooses'
	@echo 'make proof         simulation, kept histories, rehearsals, and servers and workers that die, a few minutes of all'
	@echo 'make simulate      rollouts against simulated hosts, a minute of them; SECONDS=600 for longer'
	@echo 'make planted       plants bugs in a copy, looks whether the simulation finds them, writes docs/explanation/proof.md'
	@echo 'make mutate        changes each comparison and boolean of the rules, looks who notices, writes docs/explanation/mutants.md'
	@echo 'make chaos         the long table of servers and workers that are killed, stopped and cut off; half an hour'
	@echo 'make soak          rollouts on real servers while workers and the server die; MINUTES=60 for longer'
	@echo 'make test-lowest   unit and smoke tests with the lowest versions of all dependencies'
	@echo 'make test-pythons  unit and smoke tests on each Python from 3.10 to 3.13 of this machine'
	@echo 'make format        format the code and mend what lint can mend'
	@echo 'make clean         remove the virtual environments and caches'

demo: $(VENV)/.demo
	@$(BIN)/python -m temporal_patching demo $(DEMO_ARGS)

workshop: $(VENV)/.workshop
	@$(BIN)/python -m examples.workshop $(EXERCISE)

pictures: $(VENV)/.workshop
	$(BIN)/python -m examples.workshop --own-server --pictures docs/pictures 4 5 7

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

test: lint types tests

all: test-lowest test-pythons test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy --strict $(TYPED)
	$(ACTIVATED) pyright
	PYTHONPATH=src $(ACTIVATED) pyright --verifytypes temporal_patching --ignoreexternal

tests: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

proof: $(VENV)/.dev
	$(BIN)/python -m pytest $(PROOF) $(PYTEST_ARGS)

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.sim run --seed '$(or $(SEED),0)' --seconds '$(or $(SECONDS),60)'

planted: $(VENV)/.dev
	$(BIN)/python -m tests.sim planted --write

mutate: $(VENV)/.mutate
	nice $(BIN)/python -m tests.mutation run $(MODULES)
	nice $(BIN)/python -m tests.mutation run --again $(MODULES)
	$(BIN)/python -m tests.mutation page

chaos: $(VENV)/.dev
	$(BIN)/python -m pytest -m chaos $(PYTEST_ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m tests.chaos soak --minutes '$(or $(MINUTES),5)' --seed '$(or $(SEED),0)'

test-lowest: pyproject.toml
	tests/other-environments lowest '$(PYTHON)'

test-pythons: pyproject.toml
	tests/other-environments pythons

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.workshop: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(NEWER_PIP)
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo]' --group workshop
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(NEWER_PIP)
	$(BIN)/python $(PIP_INSTALL) --editable '.[cli,demo,ssh]' --group dev
	@touch $@ $(VENV)/.demo $(VENV)/.workshop

$(VENV)/.mutate: $(VENV)/.dev
	$(BIN)/python $(PIP_INSTALL) --group mutate
	@touch $@

clean:
	rm -rf $(VENV) .venvs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
