"""Disks that are full, cannot be written, or do not rename at once."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from cm3leon_jax.train import checkpoint
from tests.train import test_checkpoint

# A disk of three megabytes that only this process sees; no rights are needed.
_NAMESPACE = ["unshare", "--map-root-user", "--mount", "bash", "-c"]
_MOUNT = 'mount -t tmpfs -o size=3m tmpfs "$1" && shift && exec "$@"'
_SAVES = """
import os, pathlib, subprocess, sys, jax
from cm3leon_jax.train import checkpoint
folder, fault, on_error = sys.argv[1:]
disk = pathlib.Path(folder)
writer = checkpoint.Checkpointer(folder + "/checkpoints", on_error=on_error)
state = lambda step: {"w": jax.random.normal(jax.random.key(step), (100_000,))}
for step in (1, 2):
    writer.save(step, state(step))
writer.wait()
if fault == "full":
    try:
        with open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(10_000))
                file.flush()
    except OSError as error:
        print("filled:", error.strerror)
else:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
try:
    writer.save(3, state(3))
    writer.wait()
    print("failed:", writer.num_failed)
except checkpoint.SaveError as error:
    print("stopped:", error)
if fault == "full":
    (disk / "filler").unlink()
else:
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
found = checkpoint.read(folder + "/checkpoints")
print("whole:", found.step, bool((found.state["w"] == state(found.step)["w"]).all()))
writer = checkpoint.Checkpointer(folder + "/checkpoints", keep_last=2)
print("restored:", writer.restore(state(0)).step)
writer.save(4, state(4))
writer.close()
print("at last:", checkpoint.read(folder + "/checkpoints").step, flush=True)
os._exit(0)  # Orbax still waits for the folder that could not be made, see `main`
"""


def can_mount(folder):
    if not shutil.which("unshare"):
        return False
    command = [*_NAMESPACE, _MOUNT, "", str(folder), "true"]
    return not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize("on_error", checkpoint.ON_ERROR)
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_small_disk_that_fails_in_a_save_costs_that_save_alone(
    tmp_path, fault, on_error
):
    if not can_mount(tmp_path):
        pytest.skip("needs Linux with user namespaces")
    code = [sys.executable, "-c", _SAVES, str(tmp_path), fault, on_error]
    done = subprocess.run(
        [*_NAMESPACE, _MOUNT, "", str(tmp_path), *code],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    if fault == "full":
        assert said.pop(0) == "filled: No space left on device"
    if on_error == "stop":
        assert said[0].startswith("stopped: checkpoint 3 could not be written")
    else:
        assert said[0] == "failed: 1"
    assert said[1:] == ["whole: 2 True", "restored: 2", "at last: 4"]


def test_step_that_came_file_by_file_and_was_cut_short_is_never_half_restored(tmp_path):
    """Where a folder is not renamed at once, as in buckets that are mounted."""
    made, store = tmp_path / "made", tmp_path / "store"
    test_checkpoint.saved(made)
    whole = made / "00000002"
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    shutil.copytree(made / "00000001", store / "00000001")
    order = np.random.default_rng(0).permutation(len(files))
    for number in order:  # one by one, a kill after each
        place = store / "00000002" / files[number].relative_to(whole)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[number], place)
        got = checkpoint.Checkpointer(store).restore(test_checkpoint.make_state())
        expected = test_checkpoint.make_state(got.step)
        assert test_checkpoint.bits(got.state) == test_checkpoint.bits(expected)
        assert got.data == {"epoch": 0, "row": got.step}
    assert got.step == 2  # all of it is there
