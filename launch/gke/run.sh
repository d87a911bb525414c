#!/usr/bin/env bash
# Runs a job on a GKE cluster, and follows, shows or deletes it.
#
#   launch/gke/run.sh [--dry-run] NAME TOPOLOGY IMAGE --config ... --workdir /mnt/bucket/run
#   launch/gke/run.sh [--dry-run] logs|status|delete NAME
#
#   SLICES   slices that work together; 1 if unset
#   SPOT     true for nodes that may be taken away
#   BUCKET   of Google Storage, mounted in every pod at /mnt/BUCKET
#
# The JobSet starts everything again by itself, until the job is done.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
RUN=()
if [[ ${1:-} == --dry-run ]]; then
    RUN=(echo)
    shift
fi
kube() { ${RUN[@]+"${RUN[@]}"} kubectl "$@"; }
of() { echo "jobset.sigs.k8s.io/jobset-name=$1"; }

case ${1:-} in
logs) kube logs --follow --prefix --max-log-requests=1000 --selector="$(of "$2")" ;;
status)
    kube get jobset "$2"
    kube get pods --output=wide --selector="$(of "$2")"
    ;;
delete) kube delete jobset "$2" ;;
*)
    (($# >= 3)) || { echo "error: NAME TOPOLOGY IMAGE and the job's arguments" >&2 && exit 2; }
    options=(--name "$1" --topology "$2" --image "$3" --slices "${SLICES:-1}")
    if [[ ${SPOT:-false} == true ]]; then options+=(--spot); fi
    if [[ -n ${BUCKET:-} ]]; then options+=(--bucket "$BUCKET"); fi
    shift 3
    made=$(python3 "$HERE/jobset.py" "${options[@]}" -- "$@")
    if ((${#RUN[@]})); then echo "$made"; fi
    kube apply --filename=- <<<"$made"
    ;;
esac
