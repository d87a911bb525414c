#!/usr/bin/env bash
# Says in which state the pod is, and what every host does: a line each.
#
#   POD=run ZONE=us-west4-a launch/tpu/status.sh [--dry-run]
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
now=$(state)
echo "$POD: $now"
if $DRY_RUN || [[ $now == ACTIVE ]]; then on_hosts status; fi
