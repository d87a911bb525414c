# Every target sets up a fresh machine by itself: Python 3.11 or later and make.
PYTHON ?= python3
WORKDIR ?= runs/quickstart
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: help setup demo quickstart quickstart-full test test-fast test-all test-torch lint types clean

help:
	@echo "make demo                    a trained model draws, describes, answers: a minute"
	@echo "make quickstart              the whole path on the built-in scenes, about 15 minutes"
	@echo "make quickstart DATA=folder  the same on your own pictures and captions"
	@echo "make quickstart-full         the longer run (hours; resumable)"
	@echo "make test | test-fast | test-all | lint | types"

$(READY): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"error: Python {v.major}.{v.minor} is too old: 3.11 or later is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(READY)

# The model of `make quickstart-full`, kept in the repository.
demo: $(READY)
	$(BIN)/cm3leon --config configs/generate.py --workdir runs/demo --config.model=examples/demo --config.requests=examples/demo/requests.jsonl $(ARGS)

quickstart: $(READY)
	$(BIN)/cm3leon --config configs/quickstart.py --workdir $(WORKDIR) $(if $(DATA),--config.data=$(DATA)) $(ARGS)

quickstart-full: $(READY)
	$(BIN)/cm3leon --config configs/quickstart.py:full --workdir runs/full $(if $(DATA),--config.data=$(DATA)) $(ARGS)

# Two processes, each with whole files; `make test ARGS="-n 0"` for one.
test: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow" tests/documents tests/decoding tests/train tests/test_architecture.py tests/test_configs.py $(ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest $(ARGS)

# Needs PyTorch and transformers: pip install -e '.[torch]' into .venv first.
test-torch: $(READY)
	$(BIN)/python -m pytest -m torch $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) runs/quickstart
