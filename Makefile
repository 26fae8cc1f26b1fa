# The commands of the project, the same for people and for CI. Each installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CHECKOV := build/checkov/.3.3.30
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Of these alone: collecting the converters' tests takes their frameworks.
FAST := -m fast tests/server tests/client tests/docs tests/e2e tests/test_*.py
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

.PHONY: help setup demo check test-fast test test-slow test-lowest attack coverage format gallery k8s-check protos \
  docs protos-baseline kept-wheel dist bench bench-triton bench-against image-check clean

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

# --no-deps, here and below: dependencies would bring a second torch and TensorFlow, CUDA, and packages from years ago.
$(VENV)/.setup: pyproject.toml $(VENV)/.pip
	$(INSTALL) --editable '.[cpu,convert,explain]' --group dev
	$(INSTALL) --no-deps silero-vad
	@touch $@ $(VENV)/.cpu

$(VENV)/.dev: $(VENV)/.setup
	$(INSTALL) --editable '.[cpu,keras,tensorflow,sklearn,lightgbm,catboost,huggingface,tables,explain]' --group dev
	$(INSTALL) --no-deps cifar-10-model tf_keras timm torchvision xgboost-cpu
	@touch $@

# In an environment of its own: it pins packages that the project wants newer.
$(CHECKOV):
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/pip install --quiet --disable-pip-version-check checkov==$(patsubst .%,%,$(notdir $@)) \
	  && touch $@ || echo "going on without checkov: its tests are skipped"

setup: $(VENV)/.setup         ## install what check, test-fast and the server need: no torch, Keras or TensorFlow

demo: $(VENV)/.cpu            ## serve a trained model and send it real images from 64 callers
	$(BIN)/python examples/demo.py

check: $(VENV)/.setup         ## lint, types, protos, workflows: what must hold before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/protos.py --image build/protos.binpb
	$(BIN)/buf lint build/protos.binpb --path onnxserve/v1
	$(BIN)/buf breaking build/protos.binpb --against protos/baseline.binpb --path onnxserve/v1
	$(BIN)/python scripts/protos.py --check
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/python scripts/grpcio_range.py

test-fast: $(VENV)/.setup     ## the tests of three minutes: no converters, no browser, no benchmarks
	$(PYTEST) $(FAST) $(ARGS)

test: $(VENV)/.dev $(CHECKOV)    ## the tests of what the project promises, two files at a time: 30 minutes on two CPUs
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: $(VENV)/.dev $(CHECKOV)    ## the tests that `make test` leaves out: before a release
	$(PYTEST) -m slow $(ARGS)

attack: $(VENV)/.setup        ## what callers, networks and models have done to servers, at length: minutes, with counts
	$(PYTEST) --attack-full --timeout 900 tests/attack $(ARGS)

coverage: $(VENV)/.setup      ## test-fast, with the lines of server and client that it runs: build/coverage
	$(PYTEST) $(FAST) --cov --cov-report=term:skip-covered --cov-report=html $(ARGS)

test-lowest: | $(VENV)/.setup    ## test-fast on the lowest versions that pyproject.toml allows
	$(INSTALL) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest --resolution lowest-direct \
	  --editable '.[cpu,convert,explain]' --group test
	build/lowest/bin/python -m pytest --numprocesses 2 --dist loadfile $(FAST) $(ARGS)

format: $(VENV)/.setup        ## put the code into its standard form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

gallery: $(VENV)/.dev         ## train, convert, serve and compare every model of examples/gallery
	$(BIN)/python examples/gallery/run.py $(ARGS)

k8s-check: $(VENV)/.setup $(CHECKOV)    ## render the manifests of deploy/k8s and check them, alerts and scaling too
	$(PYTEST) tests/deploy $(ARGS)

protos: $(VENV)/.setup        ## generate the stubs from protos/ into client/onnxserve/v1
	$(BIN)/python scripts/protos.py

docs: $(VENV)/.setup          ## build the documentation as a site: build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

protos-baseline: $(VENV)/.setup    ## record the contract that `make check` compares with: at a release
	$(BIN)/python scripts/protos.py --baseline

kept-wheel: $(VENV)/.setup    ## keep the SDK of COMMIT for the tests: at a release
	$(BIN)/python scripts/kept_wheel.py $(COMMIT)

dist: $(VENV)/.setup          ## build the wheel and the sdist, install each in a clean environment, use it
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python scripts/try_dist.py

bench: $(VENV)/.dev           ## measure this machine: build/bench.json, build/bench.md
	$(BIN)/python -m bench $(ARGS)

bench-triton: $(VENV)/.dev    ## the same models on Triton and on onnxserve in turn
	$(BIN)/python -m bench.peers.triton $(ARGS)

bench-against: $(VENV)/.dev   ## this tree and the one of CHECKOUT in turn: what a change costs
	$(BIN)/python -m bench.against $(CHECKOUT) $(ARGS)

image-check: $(VENV)/.cpu     ## build the container image, run it, check it: as root, with buildah and debootstrap
	PYTHON=$(abspath $(BIN))/python deploy/prove-image.sh $(ARGS)

clean:           ## remove what was built
	rm -rf build dist $(VENV)
