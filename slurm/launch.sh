#!/usr/bin/env bash
# One machine's part of a training: `accelerate launch`, told which of the machines it is. srun starts
# it on each of them; slurm/train.sbatch exports the rest.
set -euo pipefail
# Trainers save when they get it, and take as long as they need. torchrun would end by it, and for
# SIGTERM it knows no more patience than 30 s; it inherits that it is to be left alone.
trap '' USR1
exec "${VENV:-.venv}/bin/accelerate" launch \
    --num_machines "$MACHINES" \
    --machine_rank "$SLURM_PROCID" \
    --main_process_ip "$MAIN_ADDRESS" \
    --main_process_port "$MAIN_PORT" \
    "$@"
