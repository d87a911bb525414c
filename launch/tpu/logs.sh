#!/usr/bin/env bash
# Follows the logs of all hosts, each line with its host's name.
#
#   POD=run ZONE=us-west4-a launch/tpu/logs.sh [--dry-run] [LINES]
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
for node in $(nodes); do
    cloud compute tpus tpu-vm ssh "$node" --zone="$ZONE" --worker=all \
        --command="bash $FOLDER/launch/tpu/host.sh logs ${1:-20}" &
done
wait
