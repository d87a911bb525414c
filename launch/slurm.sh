#!/usr/bin/env bash
# Runs a job on the GPUs of a SLURM cluster, one process a node.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh \
#       --config configs/pretrain.py:7b --workdir /shared/run --config.shards=/shared/shards
#
# Started from the repository's folder, on nodes that share it and its .venv with the
# extra `cuda`. Five minutes before the time limit, or when the job is to make room,
# every process gets SIGTERM, saves, and the job goes back into the queue until it is
# done; a mistake or bad numbers (exit codes 2 and 3) end it.
#SBATCH --job-name=cm3leon
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail
export CM3LEON_HOSTS=auto # JAX asks SLURM
# Source: github.com/AI-Hypercomputer/maxtext, src/maxtext/configs/gpu/a3/llama_2_7b;
# not measured here.
export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true\
 --xla_gpu_enable_highest_priority_async_stream=true\
 --xla_gpu_enable_pipelined_all_gather=true\
 --xla_gpu_enable_pipelined_reduce_scatter=true\
 --xla_gpu_enable_pipelined_all_reduce=true\
 --xla_gpu_enable_while_loop_double_buffering=true ${XLA_FLAGS:-}"

# --label: every line with its task's number; --kill-on-bad-exit: none waits for the dead.
srun --label --kill-on-bad-exit=1 .venv/bin/python -m cm3leon_jax.main "$@" &
trap 'kill -TERM $!' TERM
code=0
wait $! || code=$?
# A trapped signal ends `wait` before the processes are done.
while kill -0 $! 2>/dev/null; do wait $! && code=0 || code=$?; done
case $code in
0 | 2 | 3) exit "$code" ;;
*) scontrol requeue "$SLURM_JOB_ID" ;;
esac
