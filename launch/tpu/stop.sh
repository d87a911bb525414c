#!/usr/bin/env bash
# Asks the job on all hosts to stop: it finishes its step, saves and exits with 143.
#
#   POD=run ZONE=us-west4-a launch/tpu/stop.sh [--dry-run]
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
on_hosts stop
