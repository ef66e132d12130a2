# make help lists the targets. Everything runs in .venv, which `make setup` makes.

PYTHON ?= python3
CUDA ?= $(if $(wildcard .venv/.installed-cuda12),12,13)
ARGS ?=
# The GPUs that this shell may use: those of the node that CUDA_VISIBLE_DEVICES, where it is set, leaves. As in CUDA, what
# stands behind an entry that names no GPU does not count.
GPUS ?= $(shell nvidia-smi --list-gpus 2>/dev/null | awk -v visible="$${CUDA_VISIBLE_DEVICES-all}" '/^GPU/ {node++} \
  END {if (visible == "all") {print node + 0; exit} n = split(visible, name, ","); \
  while (count < n && name[count + 1] ~ /^(GPU-|MIG-|[0-9])/ && (name[count + 1] !~ /^[0-9]+$$/ || name[count + 1] + 0 < node)) count++; \
  print node ? count + 0 : 0}')
# pytest-xdist's processes: more than cores, since many tests wait for processes of their own (0: no such processes)
TESTS_AT_ONCE ?= 4
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadgroup --no-loadscope-reorder

BIN := .venv/bin
STAMP := .venv/.installed-cuda$(CUDA)
# One process where there is at most one GPU, else torchrun with one process per GPU of this node.
TORCHRUN = $(BIN)/torchrun --standalone --nproc-per-node $(GPUS) --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 120
LAUNCH = $(if $(filter 0 1,$(GPUS)),$(BIN)/python,$(TORCHRUN))

.DEFAULT_GOAL := help
.PHONY: help setup demo clean-demo test test-fast test-gpu check fmt shards train eval ablations report bench bench-peers gpu-check
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ' *## ' '/^[a-z-]+:.*## / {sub(/:.*/, "", $$1); printf "  make %-11s %s\n", $$1, $$2; \
	  if ($$3) printf "%20s%s\n", "", $$3}' Makefile
	@echo "  ARGS='…' passes options on to the program behind a target, whose own --help lists them."

setup: $(STAMP)  ## make .venv and install the lock and this project (CPU and CUDA 13) ## make setup PYTHON=python3.12 CUDA=12

$(STAMP): requirements.txt requirements-cuda12.txt pyproject.toml
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
	@echo "installing the lock into .venv (6.2 GB with CUDA's libraries, 2.7 GB with a CPU build of torch; a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r .venv/lock.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import sharding.job; from dali_pipelines.crops import find_codec; find_codec()'  # Numba compiles, once
	@touch $@

demo: setup  ## train on scikit-learn's digits, evaluate with ten patches, report: a few minutes on two cores ## make clean-demo demo ARGS='--recipe paper'
	@test -d build/demo/digits || $(BIN)/python scripts/digits.py build/demo/digits
	@$(BIN)/python -m sharding pack build/demo/digits build/demo/shards --samples-per-shard 500
	@$(BIN)/python train.py --shards build/demo/shards --run-dir runs/demo \
	  --recipe original --width 0.125 --epochs 30 --model-parallel 1 $(ARGS)
	@$(BIN)/python eval_tenpatch.py --run-dir runs/demo
	@$(BIN)/python -m report --run-dir runs/demo

clean-demo:  ## remove what make demo made, so that the next one starts anew
	rm -rf build/demo runs/demo

test: setup  ## run all tests (about five minutes on two cores) ## make test ARGS='tests/sharding -x'
	@$(PYTEST) $(ARGS)

test-fast: TESTS_AT_ONCE = 2  # they compute and do not wait: no more than cores
test-fast: setup  ## run the unit tests: nothing that trains or starts processes (80 seconds on two cores) ## make test-fast ARGS='-k order'
	@$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-gpu: setup  ## run only the tests that need a GPU ## make test-gpu ARGS='-x'
	@$(BIN)/python -m pytest -m gpu $(ARGS)

check: setup  ## ruff and mypy; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fmt: setup  ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

shards: setup  ## pack the images in SRC into shards in OUT ## make shards SRC=photos OUT=shards ARGS='--resample lanczos --workers 8'
	@test -n "$(SRC)" -a -n "$(OUT)" || { echo "error: make shards needs SRC=… (images) and OUT=… (folder for shards)" >&2; exit 2; }
	@$(BIN)/python -m sharding pack "$(SRC)" "$(OUT)" $(ARGS)

train: setup  ## train on all GPUs of this node, else on the CPU; the same command goes on ## make train SHARDS=shards RUN=runs/first ARGS='--recipe paper --epochs 10'
	@test -n "$(SHARDS)" -a -n "$(RUN)" || { echo "error: make train needs SHARDS=… (made by make shards) and RUN=… (folder for the run)" >&2; exit 2; }
	@$(LAUNCH) train.py --shards "$(SHARDS)" --run-dir "$(RUN)" $(ARGS)

eval: setup  ## ten-patch and center-crop errors of a run, on all GPUs ## make eval RUN=runs/first ARGS='--split test --checkpoint best'
	@test -n "$(RUN)" || { echo "error: make eval needs RUN=… (a folder made by make train)" >&2; exit 2; }
	@$(LAUNCH) eval_tenpatch.py --run-dir "$(RUN)" $(ARGS)

ablations: setup  ## train and evaluate without one part after another, then one table ## make ablations SHARDS=shards RUNS=runs/ablations ARGS='--epochs 90'
	@test -n "$(SHARDS)" -a -n "$(RUNS)" || { echo "error: make ablations needs SHARDS=… (made by make shards) and RUNS=… (folder for the runs)" >&2; exit 2; }
	@LAUNCH="$(LAUNCH)" bash scripts/ablations.slurm "$(SHARDS)" "$(RUNS)" $(ARGS)

report: setup  ## report.html of a run: curves, filters, guesses, errors ## make report RUN=runs/first ARGS='--checkpoint best'
	@test -n "$(RUN)" || { echo "error: make report needs RUN=… (a folder made by make train)" >&2; exit 2; }
	@$(BIN)/python -m report --run-dir "$(RUN)" $(ARGS)

bench: setup  ## all benchmarks (seven to fifteen minutes on two cores; QUICK=1: about ninety seconds) ## make bench QUICK=1 ARGS='--out build/bench'
	@$(BIN)/python -m benchmarks loader pack step tenpatch cold $(if $(QUICK),--quick) $(ARGS)

bench-peers: setup  ## install the loaders that the loader benchmark compares with
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-peers.txt

gpu-check: setup  ## what works on this node's GPUs, and how fast: ten minutes ## make gpu-check ARGS='--out build/gpu-check'
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)
