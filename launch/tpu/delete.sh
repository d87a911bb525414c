#!/usr/bin/env bash
# Gives the pod back, whatever runs on it; what lies in buckets stays.
#
#   POD=run ZONE=us-west4-a launch/tpu/delete.sh [--dry-run]
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
cloud compute tpus queued-resources delete "$POD" --zone="$ZONE" --force --quiet
