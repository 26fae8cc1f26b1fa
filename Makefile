# The commands of the project, the same for people and for CI. Each installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CHECKOV := build/checkov/.3.3.30
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check format gallery k8s-check protos docs bench bench-triton image-check clean

help:            ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cpu: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[cpu]'
	@touch $@

# Without their dependencies: those would bring a second TensorFlow, a second torch, and packages from years ago.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[cpu,keras,tensorflow,sklearn,explain,dev]'
	$(INSTALL) --no-deps cifar-10-model silero-vad tf_keras
	@touch $@ $(VENV)/.cpu

# In an environment of its own: it pins packages that the project wants newer.
$(CHECKOV):
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/pip install --quiet --disable-pip-version-check checkov==$(patsubst .%,%,$(notdir $@)) \
	  && touch $@ || echo "going on without checkov: its tests are skipped"

demo: $(VENV)/.cpu            ## serve a trained model and send it real images from 64 callers
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev $(CHECKOV)    ## run all tests, two files at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 $(ARGS)

check: $(VENV)/.dev           ## lint, types, protos: what must hold before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/protos.py --image build/protos.binpb
	$(BIN)/buf lint build/protos.binpb --path onnxserve/v1
	$(BIN)/python scripts/protos.py --check
	$(BIN)/python scripts/grpcio_range.py

format: $(VENV)/.dev          ## put the code into its standard form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

gallery: $(VENV)/.dev         ## train, convert, serve and compare every model of examples/gallery
	$(BIN)/python examples/gallery/run.py $(ARGS)

k8s-check: $(VENV)/.dev $(CHECKOV)    ## render the manifests of deploy/k8s and check them, alerts and scaling too
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 tests/deploy $(ARGS)

protos: $(VENV)/.dev          ## generate the stubs from protos/ into client/onnxserve/v1
	$(BIN)/python scripts/protos.py

docs: $(VENV)/.dev            ## build the documentation as a site: build/site
	$(INSTALL) --upgrade pip && $(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.dev           ## measure this machine: build/bench.json, build/bench.md
	$(BIN)/python -m bench $(ARGS)

bench-triton: $(VENV)/.dev    ## the same models on Triton and on onnxserve in turn
	$(BIN)/python -m bench.peers.triton $(ARGS)

image-check: $(VENV)/.cpu     ## build the container image, run it, check it: as root, with buildah and debootstrap
	PYTHON=$(abspath $(BIN))/python deploy/prove-image.sh $(ARGS)

clean:           ## remove what was built
	rm -rf build dist $(VENV)
