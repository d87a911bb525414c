"""A stand-in for `gcloud` and `kubectl`: a cloud on one machine, told what happens.

The scripts of launch/ find it first on the PATH and talk to it as to the real ones.

    CLOUD/script.json   what happens: {"queue": [...states before ACTIVE], "hosts": 2,
                        "preempt_after": [lines of output a host must have], "quota": 1,
                        "setup_fails": {"host index": times},
                        "silent_at": [questions that get no answer]}
    CLOUD/sent.jsonl    every command line that was sent
    CLOUD/pod.json      the pod that there is
    CLOUD/hosts/I       the home of host I: gone with the pod

A host is a folder as home and processes of this machine, with `python3`, `hostname` and
an accelerator's name of its own. Its virtual environment is a wrapper: what pip installs
is written down, and everything else runs in the Python of the tests.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["CLOUD"])
_PYTHON3 = """#!/bin/bash
if [[ $1 == -m && $2 == venv ]]; then
    mkdir -p "$3/bin" && cp "$CLOUD/bin/venv-python" "$3/bin/python"
else
    exec {python} "$@"
fi
"""
_VENV_PYTHON = """#!/bin/bash
case "$1 $2 $3" in
"-m pip install")
    echo "$HOST_INDEX $*" >> "$CLOUD/installed.txt"
    left="$CLOUD/setup_fails_$HOST_INDEX"
    if [[ -s $left ]]; then
        sed -i 1d "$left"
        echo "ERROR: no space left on device" >&2
        exit 1
    fi ;;
"-m pip freeze") echo "jax==$(cat "$CLOUD/jax_$HOST_INDEX" 2>/dev/null || echo same)" ;;
"-m cm3leon_jax.main "*)
    shift 2
    exec ${{FAKE_JOB:-{python} -m cm3leon_jax.main}} "$@" ;;
*) exec {python} "$@" ;;
esac
"""


def prepare(script, python=sys.executable):
    """Makes the folder, and the commands that lie on the PATH."""
    binary = CLOUD / "bin"
    binary.mkdir(parents=True)
    (CLOUD / "script.json").write_text(json.dumps(script))
    for host, times in script.get("setup_fails", {}).items():
        (CLOUD / f"setup_fails_{host}").write_text("once\n" * times)
    programs = {name: _PYTHON3 for name in ("python3.13", "python3.12", "python3")}
    programs |= {"python3.11": _PYTHON3, "venv-python": _VENV_PYTHON}
    texts = {name: text.format(python=python) for name, text in programs.items()}
    texts["hostname"] = '#!/bin/bash\necho "t1v-w-$HOST_INDEX"\n'
    for name, text in texts.items():
        (binary / name).write_text(text)
    front = CLOUD / "front"  # what the scripts see; hosts see `bin`
    front.mkdir()
    for name in ("gcloud", "kubectl"):
        text = f'#!/bin/bash\nexec {python} {__file__} {name} "$@"\n'
        (front / name).write_text(text)
    for path in (*binary.iterdir(), *front.iterdir()):
        path.chmod(0o755)


def main(argv):
    """Answers one command line."""
    with (CLOUD / "sent.jsonl").open("a") as file:
        file.write(json.dumps(argv) + "\n")
    script = json.loads((CLOUD / "script.json").read_text())
    if argv[0] == "kubectl":
        (CLOUD / "applied.json").write_text(
            "" if argv[1] != "apply" else sys.stdin.read()
        )
        return 0
    pod = CLOUD / "pod.json"
    found = json.loads(pod.read_text()) if pod.exists() else None
    words = [word for word in argv[1:] if not word.startswith("--")]
    answer = {
        ("queued-resources", "create"): create,
        ("queued-resources", "describe"): describe,
        ("queued-resources", "delete"): delete,
        ("tpu-vm", "scp"): copy,
        ("tpu-vm", "ssh"): connect,
    }[tuple(words[2:4])]
    code, after = answer(script, found, words[4:], options(argv))
    pod.unlink(missing_ok=True)
    if after is not None:
        pod.write_text(json.dumps(after))
    return code


def options(argv):
    """The flags with a value, by name."""
    pairs = [word[2:].split("=", 1) for word in argv if word.startswith("--")]
    return {pair[0]: pair[-1] for pair in pairs}


def create(script, pod, words, given):
    """Queues a pod, or refuses for want of quota."""
    if script.get("quota"):
        print("ERROR: (gcloud) Quota limit 'TPUV5sLitepod' exceeded.", file=sys.stderr)
        return 1, pod
    if pod is not None:
        print("ERROR: ALREADY_EXISTS", file=sys.stderr)
        return 1, pod
    made = CLOUD / "num_made"
    number = int(made.read_text()) if made.exists() else 0
    made.write_text(str(number + 1))
    for index in range(script["hosts"]):
        (CLOUD / f"hosts/{index}").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = script.get("queue", [])
    return 0, {"name": words[0], "left": queue, "number": number, "port": port}


def describe(script, pod, words, given):
    """Says the state; takes the pod away when the script wants it."""
    asked = CLOUD / "asked"
    asked.write_text(asked.read_text() + "." if asked.exists() else ".")
    if len(asked.read_text()) in script.get("silent_at", []):
        print("ERROR: (gcloud) Unable to reach the server", file=sys.stderr)
        return 1, pod
    if pod is None or pod["name"] != words[0]:
        print("ERROR: NOT_FOUND", file=sys.stderr)
        return 1, pod
    if pod["left"]:
        state, *pod["left"] = pod["left"]
        print(state)
        return 0, pod
    preempt = script.get("preempt_after", [])
    if pod["number"] < len(preempt) and not pod.get("is_gone"):
        watched = pathlib.Path(script["watched"])
        lines = len(watched.read_text().splitlines()) if watched.exists() else 0
        if lines >= preempt[pod["number"]]:
            pod["is_gone"] = True
            take_away()
    print("SUSPENDED" if pod.get("is_gone") else "ACTIVE")
    return 0, pod


def delete(script, pod, words, given):
    """Gives the pod back."""
    if pod is None:
        print("ERROR: NOT_FOUND", file=sys.stderr)
        return 1, None
    take_away()
    return 0, None


def take_away():
    """Kills what runs on the hosts and removes their disks."""
    for path in CLOUD.glob("hosts/*/cm3leon/job.pid"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:  # it was done
            continue
    shutil.rmtree(CLOUD / "hosts", ignore_errors=True)  # gone before, if taken away


def copy(script, pod, words, given):
    """Copies a file to the homes of all hosts."""
    source, target = words
    for home in sorted((CLOUD / "hosts").iterdir()):
        shutil.copy(source, home / target.partition(":")[2])
    return 0, pod


def connect(script, pod, words, given):
    """Runs a command on all hosts; the worst exit code."""
    if pod is None or pod.get("is_gone"):
        print("ERROR: the instance is not running", file=sys.stderr)
        return 255, pod
    running = []
    for index in range(script["hosts"]):
        environment = os.environ | {
            "HOME": str(CLOUD / f"hosts/{index}"),
            "PATH": f"{CLOUD / 'bin'}:{os.environ['PATH']}",
            "HOST_INDEX": str(index),
            "TPU_ACCELERATOR_TYPE": "v5litepod-16",
            "CM3LEON_HOSTS": str(script["hosts"]),
            "CM3LEON_HOST": str(index),
            "CM3LEON_COORDINATOR": f"127.0.0.1:{pod['port']}",
        }
        command = ["bash", "-c", given["command"]]
        home = environment["HOME"]
        running.append(subprocess.Popen(command, env=environment, cwd=home))
    return max(abs(process.wait()) for process in running), pod


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
