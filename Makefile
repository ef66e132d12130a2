# make help lists the targets. Everything runs in .venv, which `make setup` makes.

PYTHON ?= python3
CUDA ?= $(if $(wildcard .venv/.installed-cuda12),12,13)
ARGS ?=
GPUS ?= $(shell nvidia-smi --list-gpus 2>/dev/null | wc -l)

BIN := .venv/bin
STAMP := .venv/.installed-cuda$(CUDA)
# One process where there is at most one GPU, else torchrun with one process per GPU of this node. The -- keeps
# torchrun from taking --run for its own --run-path.
LAUNCH = $(if $(filter 0 1,$(GPUS)),$(BIN)/python,$(BIN)/torchrun --standalone --nproc-per-node $(GPUS) --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 120 --)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu check fmt shards train eval report bench bench-peers clean-demo
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  ARGS=… passes further options on (make train ARGS='--epochs 10'); CUDA=12 in setup takes DALI for CUDA 12."

setup: $(STAMP)  ## make .venv and install the lock (CPU and CUDA 13; CUDA=12 for older drivers)

$(STAMP): requirements.txt requirements-cuda12.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; choose one with make setup PYTHON=python3.12" >&2; exit 1; }
	@test "$(CUDA)" = 12 -o "$(CUDA)" = 13 || { echo "error: CUDA=$(CUDA); it is 12 or 13" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "error: no venv in $(PYTHON); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -f .venv/.installed-*
ifeq ($(CUDA),12)
	@sed '/# cuda13$$/d' requirements.txt > .venv/lock.txt && cat requirements-cuda12.txt >> .venv/lock.txt
	@$(BIN)/pip uninstall --quiet --yes nvidia-dali-cuda130 2>/dev/null
else
	@cp requirements.txt .venv/lock.txt
	@$(BIN)/pip uninstall --quiet --yes nvidia-dali-cuda120 2>/dev/null
endif
	@echo "installing the lock into .venv (about 2.5 GB; a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r .venv/lock.txt
	@touch $@

demo: setup  ## train on scikit-learn's digits, evaluate with ten patches, report: five minutes on two cores
	@test -d build/demo/digits || $(BIN)/python scripts/digits.py build/demo/digits
	@$(BIN)/python -m sharding pack build/demo/digits build/demo/shards --samples-per-shard 500
	@$(BIN)/python train.py --shards build/demo/shards --run runs/demo --resume auto \
	  --recipe original --width 0.125 --epochs 30 --model-parallel 1 $(ARGS)
	@$(BIN)/python eval_tenpatch.py --run runs/demo
	@$(BIN)/python -m report --run runs/demo

clean-demo:  ## remove what make demo made, so that the next one starts anew
	rm -rf build/demo runs/demo

test: setup  ## run the tests (at most ten minutes on two cores)
	@$(BIN)/python -m pytest $(ARGS)

test-gpu: setup  ## run only the tests that need a GPU
	@$(BIN)/python -m pytest -m gpu $(ARGS)

check: setup  ## ruff and mypy; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fmt: setup  ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

shards: setup  ## pack images into shards: make shards SRC=… OUT=…
	@test -n "$(SRC)" -a -n "$(OUT)" || { echo "error: make shards needs SRC=… (images) and OUT=… (folder for shards)" >&2; exit 2; }
	@$(BIN)/python -m sharding pack "$(SRC)" "$(OUT)" $(ARGS)

train: setup  ## train on all GPUs of this node, else on the CPU: make train SHARDS=… RUN=…
	@test -n "$(SHARDS)" -a -n "$(RUN)" || { echo "error: make train needs SHARDS=… (made by make shards) and RUN=… (folder for the run)" >&2; exit 2; }
	@$(LAUNCH) train.py --shards "$(SHARDS)" --run "$(RUN)" $(ARGS)

eval: setup  ## ten-patch and center-crop errors of a run, on all GPUs: make eval RUN=…
	@test -n "$(RUN)" || { echo "error: make eval needs RUN=… (a folder made by make train)" >&2; exit 2; }
	@$(LAUNCH) eval_tenpatch.py --run "$(RUN)" $(ARGS)

report: setup  ## report.html of a run: curves, filters, guesses, errors: make report RUN=…
	@test -n "$(RUN)" || { echo "error: make report needs RUN=… (a folder made by make train)" >&2; exit 2; }
	@$(BIN)/python -m report --run "$(RUN)" $(ARGS)

bench: setup  ## all benchmarks (fifteen minutes on two cores; QUICK=1: ninety seconds)
	@$(BIN)/python -m benchmarks loader pack step tenpatch cold $(if $(QUICK),--quick) $(ARGS)

bench-peers: setup  ## install the loaders that the loader benchmark compares with
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-peers.txt
