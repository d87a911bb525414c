"""The launch scripts against a cloud on this machine: queued, taken away, refused."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = sorted((ROOT / "launch").rglob("*.sh"))
JOB = ["--config", "configs/pretrain.py:7b", "--workdir", "gs://b/run with a space"]
# A job that takes a second: it goes on from where its file ends, and ends at five.
FAKE = """#!/bin/bash
echo "$PWD $CM3LEON_HOST $LIBTPU_INIT_ARGS" >> "{seen}"
printf '%s\\n' "$@" > "{seen}.arguments.$CM3LEON_HOST"
while (($(wc -l < "{steps}") < 5)); do
    [[ $CM3LEON_HOST == 0 ]] && echo step >> "{steps}"
    sleep 0.1
done
exit ${{FAKE_CODE:-0}}
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """The scripts in a small repository, which is soon copied to hosts."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "launch", root / "launch")
    shutil.copy(ROOT / "requirements.lock", root)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root / "launch"


@pytest.fixture
def cloud(tmp_path, monkeypatch, scripts):
    """Makes a cloud that does what a script says, and the environment to talk to it."""
    root = tmp_path / "cloud"
    front = f"{root / 'front'}:{os.environ['PATH']}"
    steps = tmp_path / "steps"
    steps.write_text("")
    fake = tmp_path / "fake.sh"
    fake.write_text(FAKE.format(seen=tmp_path / "seen", steps=steps))
    settings = {"CLOUD": str(root), "PATH": front, "FAKE_JOB": f"bash {fake}"}
    settings |= {
        "SCRIPTS": str(scripts),
        "POD": "run",
        "ZONE": "us-west4-a",
        "TOPOLOGY": "v5e:4x4",
    }
    settings |= {"POLL_SECONDS": "0.1", "CLOUDSDK_CONFIG": str(tmp_path / "gcloud")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CM3LEON_HOSTS", raising=False)

    def make(**script):
        script = {"hosts": 2, "watched": str(steps)} | script
        code = (
            f"import json, sys; sys.path.insert(0, {str(ROOT)!r});"
            "from tests.launch import cloud; cloud.prepare(json.loads(sys.argv[1]))"
        )
        command = [sys.executable, "-c", code, json.dumps(script)]
        subprocess.run(command, check=True)
        return root

    return make


def launch(script, *arguments, limit=280, **environment):
    return subprocess.run(
        [f"{os.environ['SCRIPTS']}/tpu/{script}.sh", *arguments],
        capture_output=True,
        text=True,
        timeout=limit,
        env=os.environ | environment,
        check=False,
    )


def sent(root):
    lines = (root / "sent.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def words(command):
    return [word for word in command if not word.startswith("--")][3:5]


def test_job_is_queued_set_up_preempted_and_goes_on_to_its_end(cloud, tmp_path):
    queue = ["WAITING_FOR_RESOURCES", "PROVISIONING"]
    root = cloud(queue=queue, preempt_after=[3], silent_at=[1, 4])
    done = launch("until_done", *JOB, PROVISION="--spot")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.partition("run: ")[2] for line in done.stdout.splitlines()]
    told = [line for line in said if line]
    before = [*queue, "ACTIVE", "started"]
    first = ["UNKNOWN", "NONE", queue[0], "UNKNOWN", *before[1:]]
    assert told == [*first, "SUSPENDED", "NONE", *before, "done"]
    assert (root / "num_made").read_text() == "2"
    arguments = (tmp_path / "seen.arguments.1").read_text().splitlines()
    assert arguments == JOB  # as they were, spaces and all
    lines = (tmp_path / "seen").read_text().splitlines()
    assert len(lines) == 4  # two hosts, twice
    assert all("async_collective_fusion=true" in line for line in lines)
    create = next(line for line in sent(root) if words(line)[1] == "create")
    assert "--accelerator-type=v5litepod-16" in create and "--spot" in create
    assert "--runtime-version=v2-alpha-tpuv5-lite" in create
    installed = (root / "installed.txt").read_text().splitlines()
    locked = [line for line in installed if "-r requirements.lock" in line]
    assert len(locked) == 4


def test_quota_error_is_told_and_nothing_else_is_tried(cloud):
    root = cloud(quota=1)
    done = launch("until_done", *JOB)
    assert done.returncode == 5
    assert "Quota limit" in done.stderr and "a quota is raised under" in done.stderr
    assert [words(line)[1] for line in sent(root)] == ["describe", "create"]


def test_host_that_fails_its_set_up_is_tried_again(cloud):
    cloud(setup_fails={"1": 1})
    done = launch("until_done", *JOB)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no space left on device" in done.stderr
    assert "a host could not be set up; once more" in done.stdout


@pytest.mark.slow
def test_host_that_always_fails_its_set_up_ends_with_a_message(cloud, tmp_path):
    cloud(setup_fails={"1": 99})
    done = launch("until_done", *JOB, MAX_FAILURES="2")
    assert done.returncode == 5
    assert "given up after 3 failures: a host could not be set up" in done.stderr
    assert not (tmp_path / "seen").exists()


def test_hosts_with_other_packages_are_refused(cloud):
    root = cloud()
    (root / "jax_1").write_text("other")
    assert launch("create").returncode == 0
    done = launch("setup")
    assert done.returncode == 5 and "different packages" in done.stderr
    assert "t1v-w-0: ready with jax" in done.stderr


@pytest.mark.parametrize("code", [2, 3])
def test_job_that_would_fail_again_is_not_started_again(cloud, tmp_path, code):
    cloud()
    done = launch("until_done", *JOB, FAKE_CODE=str(code))
    assert done.returncode == code
    assert len((tmp_path / "seen").read_text().splitlines()) == 2


@pytest.mark.slow
def test_job_that_crashes_is_started_again_and_given_up(cloud, tmp_path):
    cloud()
    done = launch("until_done", *JOB, FAKE_CODE="134", MAX_FAILURES="2")
    assert done.returncode == 5
    assert "given up after 3 failures: the job ended with 134" in done.stderr
    assert len((tmp_path / "seen").read_text().splitlines()) == 2 * 3


def test_status_logs_and_stop_speak_of_every_host(cloud, tmp_path):
    cloud()
    (tmp_path / "fake.sh").write_text(
        "trap 'exit 143' TERM; printf 'step 1\\rstep 2\\n'; while true; do sleep 0.1; done"
    )
    for script in ("create", "setup"):
        assert launch(script).returncode == 0
    assert launch("run", *JOB).returncode == 0
    again = launch("run", *JOB)
    assert "t1v-w-1: runs already" in again.stdout
    shown = launch("status").stdout
    assert "run: ACTIVE" in shown and "t1v-w-1: running | step 2" in shown
    with (tmp_path / "shown").open("w") as file:
        follower = subprocess.Popen(
            [str(ROOT / "launch/tpu/logs.sh")], stdout=file, start_new_session=True
        )
    wanted = {
        "t1v-w-0: step 1",
        "t1v-w-0: step 2",
        "t1v-w-1: step 1",
        "t1v-w-1: step 2",
    }
    deadline = time.monotonic() + 60
    while not wanted <= set((tmp_path / "shown").read_text().splitlines()):
        assert time.monotonic() < deadline, (tmp_path / "shown").read_text()
        time.sleep(0.1)
    os.killpg(follower.pid, signal.SIGTERM)
    follower.wait()
    assert "t1v-w-0: stopped" in launch("stop").stdout
    assert "t1v-w-0: 143 | step 2" in launch("status").stdout
    assert launch("delete").returncode == 0
    assert launch("status").stdout == "run: NONE\n"


def test_dry_run_prints_and_sends_nothing(cloud, tmp_path):
    root = cloud()
    done = launch("until_done", "--dry-run", *JOB)
    assert done.returncode == 0, done.stderr
    assert not (root / "sent.jsonl").exists()
    for part in ("queued-resources create run", "scp", "--worker=all", "host.sh start"):
        assert part in done.stderr.replace("\\ ", " ").replace("\\", ""), part
    for script in ("create", "setup", "run", "logs", "status", "stop", "delete"):
        assert launch(script, "--dry-run").returncode == 0, script
    assert not (root / "sent.jsonl").exists()


def test_slices_are_named_one_by_one(cloud):
    cloud()
    shown = launch("until_done", "--dry-run", *JOB, SLICES="2").stderr
    assert "--node-count=2 --node-prefix=run" in shown
    assert "ssh run-0" in shown and "ssh run-1" in shown and "SLICES=2" in shown


@pytest.mark.parametrize("topology", ["v5e-256", "v9:4x4", "v5e:4y4"])
def test_topology_that_is_none_is_refused(cloud, topology):
    cloud()
    done = launch("create", "--dry-run", TOPOLOGY=topology)
    assert done.returncode == 2 and "error: " in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud")
def test_gcloud_knows_every_command_that_is_sent(cloud, tmp_path):
    real = shutil.which("gcloud")
    root = cloud(queue=["PROVISIONING"], preempt_after=[3])
    assert launch("until_done", *JOB, PROVISION="--reserved").returncode == 0
    assert launch("create", "--dry-run", "--spot", SLICES="4").returncode == 0
    assert_known(real, sent(root), tmp_path)


def assert_known(gcloud, lines, folder):
    """Asks the real gcloud about every command line."""
    lines = {" ".join(map(_quoted, line)) for line in lines}
    listed = [{"command_string": line} for line in sorted(lines)]
    commands = folder / "commands.json"
    commands.write_text(json.dumps(listed))
    lint = [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={commands}"]
    found = subprocess.run(lint, capture_output=True, text=True, check=True)
    results = json.loads(found.stdout)
    assert len(results) == len(lines) > 5
    for result in results:
        assert result["success"], (result["command_string"], result["error_message"])


def _quoted(word):
    return json.dumps(word) if " " in word else word


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_sound_shell(path):
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    check = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if check:
        options = ["--external-sources", f"--source-path={ROOT}"]
        assert subprocess.run([check, *options, path], check=False).returncode == 0
