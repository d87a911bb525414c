#!/usr/bin/env bash
# What the other scripts run on every host of a pod, from its home.
#
#   host.sh setup          installs the locked versions; says which they are
#   host.sh start ARGS     starts `cm3leon ARGS`, unless it runs; its log is job.log
#   host.sh stop           asks it to stop (SIGTERM) and waits, two minutes at most
#   host.sh code           "HOST: code running", its exit code, or "none"
#   host.sh status         the same with the last line of the log
#   host.sh logs LINES     follows the log, every line with the host's name
#
# BUCKET, if set, is mounted at /mnt/BUCKET before a setup and a start.
set -euo pipefail
cd "$(dirname "$0")/../.."
NAME=$(hostname)
JOB=$PWD/job

# A Python that is new enough; images of v4 to v6e have 3.10, so uv brings one.
python() {
    local each
    for each in python3.13 python3.12 python3.11 python3; do
        if "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$each" -m venv "$1" && return
        fi
    done
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 "$1"
}

setup() {
    [[ -x .venv/bin/python ]] || python .venv >&2
    .venv/bin/python -m pip install --quiet -r requirements.lock >&2
    # libtpu of the very JAX that is locked; gcsfs for workdirs with gs://.
    local jax
    jax=$(.venv/bin/python -c 'import importlib.metadata as m; print(m.version("jax"))')
    .venv/bin/python -m pip install --quiet "jax[tpu]==$jax" gcsfs -c requirements.lock >&2
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e . >&2
    echo "$NAME: ready with jax $jax, packages $(.venv/bin/python -m pip freeze |
        sed '/cm3leon/d' | sha256sum | cut -c1-12)"
}

# With gcsfuse, from Google's own package repository. A bucket with a hierarchical
# namespace renames a folder at once; in others a limit must be given for it to be renamed.
mount_bucket() {
    local place=/mnt/$BUCKET keys=/usr/share/keyrings/cloud.google.asc
    if mountpoint -q "$place"; then return; fi
    if ! command -v gcsfuse >/dev/null; then
        curl --silent --fail https://packages.cloud.google.com/apt/doc/apt-key.gpg |
            sudo tee "$keys" >/dev/null
        echo "deb [signed-by=$keys] https://packages.cloud.google.com/apt\
 gcsfuse-$(lsb_release -c -s) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get -qq update && sudo apt-get -qq install gcsfuse
    fi >&2
    sudo mkdir -p "$place" && sudo chown "$USER" "$place"
    gcsfuse --implicit-dirs --rename-dir-limit=100000 "$BUCKET" "$place" >&2
}

is_running() {
    [[ -f $JOB.pid ]] && kill -0 "$(cat "$JOB.pid")" 2>/dev/null
}

code() {
    if is_running; then
        echo running
    elif [[ -f $JOB.exit ]]; then
        cat "$JOB.exit"
    elif [[ -f $JOB.pid ]]; then
        echo 137 # it was killed with whoever would have written its code
    else
        echo none
    fi
}

start() {
    if is_running; then
        echo "$NAME: runs already"
        return
    fi
    rm -f "$JOB.exit" "$JOB.pid"
    export CM3LEON_HOSTS=${CM3LEON_HOSTS:-auto}
    local type flags
    type=${TPU_ACCELERATOR_TYPE:-$(curl --silent --fail --header 'Metadata-Flavor: Google' \
        http://metadata.google.internal/computeMetadata/v1/instance/attributes/accelerator-type)}
    flags=$(.venv/bin/python launch/flags.py "$type" --slices "${SLICES:-1}")
    export LIBTPU_INIT_ARGS="$flags ${LIBTPU_INIT_ARGS:-}"
    # A session of its own: it outlives the connection that starts it.
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid bash -c 'job=$1 && shift
        .venv/bin/python -m cm3leon_jax.main "$@" || code=$?
        echo "${code:-0}" > "$job.exit"' job "$JOB" "$@" >>"$JOB.log" 2>&1 </dev/null &
    echo $! >"$JOB.pid"
    echo "$NAME: started"
}

stop() {
    is_running || return 0
    # To the job itself; the shell around it stays and writes down its code.
    pkill -TERM -P "$(cat "$JOB.pid")" || true
    local left=120
    while is_running && ((left-- > 0)); do sleep 1; done
    if is_running; then kill -KILL -- "-$(cat "$JOB.pid")"; fi
    echo "$NAME: stopped"
}

if [[ -n ${BUCKET:-} && ${1:-} == @(setup|start) ]]; then mount_bucket; fi
case ${1:-} in
setup) setup ;;
start) shift && start "$@" ;;
stop) stop ;;
code) echo "$NAME: code $(code)" ;;
status)
    last=$(tail -c 2000 "$JOB.log" 2>/dev/null | tr '\r' '\n' | grep . | tail -n 1 || true)
    echo "$NAME: $(code) | $last"
    ;;
logs) tail -n "${2:-20}" -F "$JOB.log" | sed -u "s/^/$NAME: /; s/\\r/\\n$NAME: /g" ;;
*) echo "error: unknown word '${1:-}'" >&2 && exit 2 ;;
esac
