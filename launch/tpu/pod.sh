# shellcheck shell=bash
# Settings and words of the scripts beside it; sourced by them, not run.
#
#   POD        name of the pod (and of its queued resource)
#   ZONE       where it is, us-west4-a
#   PROJECT    Google project; gcloud's own default if unset
#   TOPOLOGY   chips, as `configs/plan.py` names them: v5e:16x16 (to create it only)
#   SLICES     how many pods of that shape work together; 1 if unset
#   BUCKET     of Google Storage, mounted on every host at /mnt/BUCKET; none if unset
#
# --dry-run as the first argument prints every gcloud command and sends none.
set -euo pipefail

DRY_RUN=false
if [[ ${1:-} == --dry-run ]]; then
    DRY_RUN=true
    shift
fi
: "${POD:?set POD to the name of the pod}" "${ZONE:?set ZONE, as in us-west4-a}"
SLICES=${SLICES:-1}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # of setup.sh
ROOT=$(cd "$HERE/../.." && pwd)
FOLDER=cm3leon # of this repository on the hosts, in their home
export CLOUDSDK_CORE_DISABLE_PROMPTS=1
if [[ -n ${PROJECT:-} ]]; then export CLOUDSDK_CORE_PROJECT=$PROJECT; fi

# Runs gcloud, or prints what would be run.
cloud() {
    if $DRY_RUN; then
        { printf 'gcloud' && printf ' %q' "$@" && echo; } >&2
    else
        gcloud "$@"
    fi
}

# Ends with a message and an exit code.
fail() {
    echo "error: $2" >&2
    exit "$1"
}

# The pod's nodes: one a slice.
nodes() {
    if ((SLICES == 1)); then
        echo "$POD"
    else
        local slice
        for ((slice = 0; slice < SLICES; slice++)); do echo "$POD-$slice"; done
    fi
}

# What the queue says of the pod, ACTIVE when it can be used; NONE if there is none,
# UNKNOWN if the cloud does not answer.
state() {
    local said
    local ask=(compute tpus queued-resources describe "$POD" --zone="$ZONE"
        --format='value(state.state)')
    if $DRY_RUN; then
        cloud "${ask[@]}"
        echo ACTIVE
    elif said=$(cloud "${ask[@]}" 2>&1); then
        echo "$said"
    elif [[ $said == *NOT_FOUND* ]]; then
        echo NONE
    else
        echo UNKNOWN
    fi
}

# Runs a command on all hosts of all slices.
everywhere() {
    local node failed=0
    for node in $(nodes); do
        cloud compute tpus tpu-vm ssh "$node" --zone="$ZONE" --worker=all \
            --command="$1" || failed=1
    done
    return "$failed"
}

# Runs a word of host.sh, with its arguments, on all hosts.
on_hosts() {
    everywhere "SLICES=$SLICES BUCKET=${BUCKET:-} bash $FOLDER/launch/tpu/host.sh$(printf ' %q' "$@")"
}

# What the job does on every host, see host.sh; "none" also where nothing is set up.
codes() {
    everywhere "if [ -d $FOLDER ]; then bash $FOLDER/launch/tpu/host.sh code;\
 else echo \$(hostname): code none; fi"
}
