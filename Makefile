# The commands of the project, the same for people and for CI. Each installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CHECKOV := build/checkov/.3.3.30
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

.PHONY: help setup demo check test-fast test test-slow coverage format gallery k8s-check protos protos-baseline \
  kept-wheel bench bench-triton image-check clean

help:            ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# --group needs a newer pip than most systems have.
$(VENV)/.pip: constraints.txt | $(BIN)/python
	$(INSTALL) pip
	@touch $@

$(VENV)/.cpu: pyproject.toml $(VENV)/.pip
	$(INSTALL) --editable '.[cpu]'
	@touch $@

$(VENV)/.setup: pyproject.toml $(VENV)/.pip
	$(INSTALL) --editable '.[cpu,convert,explain]' --group dev
	@touch $@ $(VENV)/.cpu

# Without their dependencies: those would bring a second TensorFlow, a second torch, and packages from years ago.
$(VENV)/.dev: $(VENV)/.setup
	$(INSTALL) --editable '.[cpu,keras,tensorflow,sklearn,explain]' --group dev
	$(INSTALL) --no-deps cifar-10-model silero-vad tf_keras
	@touch $@
