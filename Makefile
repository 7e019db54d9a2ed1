# Commands that do their own set-up: they need Python 3.11 to 3.14 and make, nothing else.
#
#   make demo       images of the embedded models, digits and scenes, in outputs/demo
#   make test       the test suite; with CI=true the slow tests too
#   make test-long  the tests that take minutes: killed runs and sweeps, every experiment, notebooks
#   make test-gpu   the tests that need a CUDA device
#   make experiments  tables and figures of the experiments with an experiment.yaml: three hours of one core, see experiments/README.md
#   make check      linter, formatter, types
#
# pip is used as this machine configures it. To fetch torch from another place, set pip's own variables, such as
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS: the commands here need a CPU build only.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-gpu experiments check clean

VENV := .venv
PYTHON := $(VENV)/bin/python
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
DEMO_DIR := outputs/demo

PIP_INSTALL = $(PYTHON) -m pip install --quiet --disable-pip-version-check $(COMPILE) --constraint constraints.txt
# torch goes first and alone: whatever is installed after it finds it there and does not choose another build.
INSTALL_TORCH = $(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"

TEST_WORKERS ?= 2
PYTEST_ARGS ?=
ifeq ($(CI),true)
SELECTION := -m "not long"
# To compile every module that is installed takes longer than to compile those that are imported.
COMPILE := --no-compile
endif
# One thread per worker: workers that each use all cores only get in each other's way.
# A worker that has nothing left to do takes tests from another, since single tests take up to minutes.
IN_PARALLEL = -n $(TEST_WORKERS) --dist worksteal
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PYTHON) -m pytest

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

# `command -v` is not enough: version managers leave stubs on the path that cannot run.
$(PYTHON):
	@for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' \
	    >/dev/null 2>&1; then \
	    echo "Creating $(VENV) with $$($$python --version)"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 to 3.14 with the venv module was found." >&2; exit 1

$(CORE): pyproject.toml constraints.txt | $(PYTHON)
	@echo "Installing mar_accel into $(VENV) (minutes, once)"
	@$(INSTALL_TORCH)
	@$(PIP_INSTALL) --editable '.[text]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(PYTHON)
	@echo "Installing mar_accel and its development tools into $(VENV) (minutes, once)"
	@$(INSTALL_TORCH)
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $(CORE) $@

demo: $(CORE)
	@rm -rf $(DEMO_DIR)
	@$(PYTHON) -m mar_accel.generate model=digits dataset=digits dataset.num_images=16 output_dir=$(DEMO_DIR)/digits
	@$(PYTHON) -m mar_accel.generate model=scenes sampler=gtr_lightgen dataset=scenes_eval dataset.num_images=12 \
	  dataset.num_images_per_prompt=1 output_dir=$(DEMO_DIR)/scenes
	@echo "Grids: $(DEMO_DIR)/digits/grid.png and $(DEMO_DIR)/scenes/grid.png   Records: run.json beside them"

test: $(DEV)
	@$(PYTEST) $(IN_PARALLEL) $(SELECTION) $(PYTEST_ARGS)

test-long: $(DEV)
	@$(PYTEST) $(IN_PARALLEL) -m long $(PYTEST_ARGS)

# One process: a device's memory is not shared among workers, and these tests may time it.
test-gpu: $(DEV)
	@$(PYTHON) -m pytest -n 0 -m gpu $(PYTEST_ARGS)

# EXPERIMENTS="gtr_table ar_steps" runs some of them; overrides may follow, see experiments/run.py.
experiments: $(DEV)
	@$(PYTHON) experiments/run.py $(EXPERIMENTS)

check: $(DEV)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
