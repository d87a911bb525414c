#!/usr/bin/env bash
# Starts a job on all hosts; it goes on when this terminal is closed.
#
#   POD=run ZONE=us-west4-a launch/tpu/run.sh [--dry-run] \
#       --config configs/pretrain.py:7b --workdir /mnt/bucket/run --config.a.b=value
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
on_hosts start "$@" || fail 5 "not all hosts started; see launch/tpu/status.sh"
