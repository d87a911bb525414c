#!/usr/bin/env bash
# Keeps a job going until it is done: makes the pod, sets it up, starts the job, and does
# so again when the pod is taken away or a host fails.
#
#   POD=run ZONE=us-west4-a TOPOLOGY=v5e:16x16 PROVISION=--spot launch/tpu/until_done.sh \
#       [--dry-run] --config configs/pretrain.py:7b --workdir /mnt/bucket/run
#
#   PROVISION      --spot, --reserved, or empty for on demand
#   POLL_SECONDS   between looks at the pod; 60 if unset
#   MAX_FAILURES   in a row, each within ten minutes of its start, before it gives up; 5
#
# The job goes on from its last checkpoint by itself: the same command, the same bytes.
# Exit codes: 0 done; 2 and 3 the job's own (a mistake, bad numbers): starting it again
# would not help; 5 it cannot be made to run. The pod is left as it is: delete.sh.
# shellcheck source=launch/tpu/pod.sh
source "$(dirname "$0")/pod.sh"
POLL_SECONDS=${POLL_SECONDS:-60}
MAX_FAILURES=${MAX_FAILURES:-5}
QUICK_SECONDS=600 # a failure sooner than this after a start counts
failures=0
since=$SECONDS

count_failure() {
    ((SECONDS - since < QUICK_SECONDS)) && failures=$((failures + 1)) || failures=1
    since=$SECONDS
    ((failures <= MAX_FAILURES)) || fail 5 "given up after $failures failures: $1"
    say "$1; once more"
}

say() {
    echo "$(date -u +%H:%M:%S) $POD: $1"
}

start() {
    "$HERE/setup.sh" || { count_failure "a host could not be set up" && return; }
    on_hosts start "$@" || { count_failure "a host did not start" && return; }
    since=$SECONDS
    say "started"
}

# Looks at an active pod: starts the job, or ends with it.
look() {
    local said all
    said=$(codes) || { say "a host does not answer" && return; }
    all=$(sed -n 's/^.*: code //p' <<<"$said" | sort -u | tr '\n' ' ')
    case " $all" in
    " 0 ") say "done" && exit 0 ;;
    *" 2 "*) fail 2 "the job refuses to run; see launch/tpu/logs.sh" ;;
    *" 3 "*) fail 3 "the numbers are not sound; see launch/tpu/logs.sh" ;;
    " running " | *" running 0 "* | " 0 running ") ;;
    *" none "*) start "$@" ;;
    *)
        count_failure "the job ended with ${all% }"
        on_hosts stop || true
        on_hosts start "$@" || true
        ;;
    esac
}

if $DRY_RUN; then
    "$HERE/create.sh" --dry-run ${PROVISION:+"$PROVISION"}
    state >/dev/null
    "$HERE/setup.sh" --dry-run
    on_hosts start "$@"
    codes
    exit
fi
before=''
while true; do
    now=$(state)
    [[ $now == "$before" ]] || say "$now"
    before=$now
    case $now in
    ACTIVE) look "$@" ;;
    NONE) "$HERE/create.sh" ${PROVISION:+"$PROVISION"} ;;
    SUSPENDED | FAILED) "$HERE/delete.sh" || count_failure "$now, and not deleted" ;;
    esac # else it waits in the queue, is being made or taken away, or is not known
    sleep "$POLL_SECONDS"
done
