#!/usr/bin/env bash
# Asks for a pod; it is there when status.sh says ACTIVE.
#
#   POD=run ZONE=us-west4-a TOPOLOGY=v5e:16x16 launch/tpu/create.sh [--dry-run] [--spot|--reserved]
#
# --spot is cheap and taken away at any time; --reserved draws on a reservation; neither
# is on demand. The request waits in a queue and never fails for want of chips.
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
: "${TOPOLOGY:?set TOPOLOGY, as in v5e:16x16}"
case ${1:-} in
--spot | --reserved | '') ;;
*) fail 2 "unknown argument $1; --spot, --reserved or none" ;;
esac

generation=${TOPOLOGY%%:*}
layout=${TOPOLOGY#*:}
[[ $layout =~ ^[0-9]+(x[0-9]+)+$ ]] || fail 2 "TOPOLOGY=$TOPOLOGY; write it as v5e:16x16"
chips=$((${layout//x/ * }))
# Product names of v4 and v5p count TensorCores, two a chip
# (cloud.google.com/tpu/docs/v4, v5p); images: cloud.google.com/tpu/docs/runtimes.
case $generation in
v4) type=v4-$((2 * chips)) image=tpu-ubuntu2204-base ;;
v5e) type=v5litepod-$chips image=v2-alpha-tpuv5-lite ;;
v5p) type=v5p-$((2 * chips)) image=v2-alpha-tpuv5 ;;
v6e) type=v6e-$chips image=v2-alpha-tpuv6e ;;
*) fail 2 "no generation $generation; known: v4, v5e, v5p, v6e" ;;
esac
names=(--node-id="$POD")
if ((SLICES > 1)); then names=(--node-count="$SLICES" --node-prefix="$POD"); fi

cloud compute tpus queued-resources create "$POD" --zone="$ZONE" "${names[@]}" \
    --accelerator-type="$type" --runtime-version="$image" \
    --scopes=https://www.googleapis.com/auth/cloud-platform ${1:+"$1"} ||
    fail 5 "$POD was not queued, see gcloud's message; a quota is raised under IAM >\
 Quotas, a name is freed by launch/tpu/delete.sh"
