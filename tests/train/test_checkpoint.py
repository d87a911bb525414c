"""Checkpoints come back whole, or say what is damaged."""

import gc
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from cm3leon_jax import cpu
from cm3leon_jax.train import checkpoint, unit


def make_state(seed=0):
    draw = np.random.default_rng(seed).normal
    return {
        "w": jnp.asarray(draw(size=(300, 40)), jnp.float32),
        "half": jnp.asarray(draw(size=(8,)), jnp.bfloat16),
        "step": jnp.asarray(seed, jnp.int32),
        "key": jax.random.key(seed),
    }


def bits(state):
    arrays = checkpoint.flatten(state)
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


def saved(folder, steps=(1, 2), **options):
    writer = checkpoint.Checkpointer(folder, context={"vocab": {"size": 9}}, **options)
    for step in steps:
        writer.save(step, make_state(step), {"epoch": 0, "row": step})
    writer.wait()
    return writer


def flip(path: pathlib.Path, position: int, bit: int):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_restore_gives_back_the_bits_the_data_position_and_the_context(tmp_path):
    saved(tmp_path)
    got = checkpoint.Checkpointer(tmp_path).restore(make_state(7))
    assert (got.step, got.data) == (2, {"epoch": 0, "row": 2})
    assert got.context == {"vocab": {"size": 9}}
    assert bits(got.state) == bits(make_state(2))


def test_restore_of_an_empty_folder_is_none(tmp_path):
    assert checkpoint.Checkpointer(tmp_path / "new").restore(make_state()) is None


def on_mesh(state, num_devices):
    """The state with its rows cut over some of the devices, the rest on all of them."""
    kinds = (jax.sharding.AxisType.Auto,)
    devices = jax.devices()[:num_devices]
    mesh = jax.make_mesh((num_devices,), ("fsdp",), kinds, devices=devices)
    spec = lambda x: jax.sharding.PartitionSpec(*("fsdp",) * (x.shape == (8,)))
    place = lambda x: jax.sharding.NamedSharding(mesh, spec(x))
    return jax.tree.map(lambda x: jax.device_put(x, place(x)), state)


def test_restore_on_other_devices_gives_the_same_bits_on_all_of_them(tmp_path):
    state, step = on_mesh(make_state(2), 8), 0
    for step, num_devices in enumerate((4, 2, 1, 8), 1):
        saver = checkpoint.Checkpointer(tmp_path)
        saver.save(step, state)
        saver.close()
        like = on_mesh(make_state(), num_devices)
        state = checkpoint.Checkpointer(tmp_path).restore(like).state
        assert bits(state) == bits(make_state(2))
        same = jax.tree.map(lambda x, y: x.sharding == y.sharding, state, like)
        assert all(jax.tree.leaves(same))


def test_flipped_bits_are_never_restored(tmp_path, caplog):
    saved(tmp_path)
    files = [p for p in (tmp_path / "00000002/state").rglob("*") if p.is_file()]
    data = [p for p in files if p.parent.name == "d"]
    assert data
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(12):
        path = data[rng.integers(len(data))]
        position, bit = rng.integers(path.stat().st_size), rng.integers(8)
        flip(path, position, bit)
        got = checkpoint.Checkpointer(tmp_path).restore(make_state())
        assert bits(got.state) == bits(make_state(got.step))
        outcomes.add(got.step)
        flip(path, position, bit)
    assert 1 in outcomes and "checkpoint 2 is not used" in caplog.text


def test_damage_names_the_array(tmp_path):
    saved(tmp_path, steps=(1,))
    manifest = tmp_path / "00000001/manifest/data.json"
    record = json.loads(manifest.read_text())
    del record["digest"]
    record["arrays"]["w"]["digest"] = "0" * 16
    record["digest"] = unit.digest_json(record)
    manifest.write_text(json.dumps(record))
    with pytest.raises(checkpoint.DamagedError, match="array 'w'"):
        checkpoint.read(tmp_path, 1)


@pytest.mark.parametrize("name", ["manifest/data.json", "_CHECKPOINT_METADATA"])
def test_truncated_metadata_falls_back(tmp_path, name):
    saved(tmp_path)
    os.truncate(tmp_path / "00000002" / name, 0)
    got = checkpoint.Checkpointer(tmp_path).restore(make_state())
    assert bits(got.state) == bits(make_state(got.step))
    if name.startswith("manifest"):
        assert got.step == 1


def test_empty_newest_step_falls_back_and_is_written_again(tmp_path, caplog):
    saved(tmp_path)
    (tmp_path / "00000003").mkdir()  # as if killed before anything was in it
    writer = checkpoint.Checkpointer(tmp_path)
    assert writer.restore(make_state()).step == 2
    assert "checkpoint 3 is not used" in caplog.text
    writer.save(3, make_state(3))
    writer.close()
    assert bits(checkpoint.Checkpointer(tmp_path).restore(make_state()).state) == bits(
        make_state(3)
    )


@pytest.mark.parametrize("damage", ["delete", "truncate", "swap"])
def test_files_that_are_gone_cut_or_swapped_are_never_half_restored(tmp_path, damage):
    saved(tmp_path)
    files = [p for p in (tmp_path / "00000002/state").rglob("*") if p.is_file()]
    files = sorted(path for path in files if path.stat().st_size)
    for path, other in zip(files, files[1:] + files[:1], strict=True):
        content, others = path.read_bytes(), other.read_bytes()
        if damage == "delete":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.write_bytes(others)
            other.write_bytes(content)
        got = checkpoint.Checkpointer(tmp_path).restore(make_state())
        assert bits(got.state) == bits(make_state(got.step)), path
        path.write_bytes(content)
        other.write_bytes(others)


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    saved(tmp_path, steps=(1,))
    os.truncate(tmp_path / "00000001/manifest/data.json", 0)
    with pytest.raises(ValueError, match="all 1 checkpoints"):
        checkpoint.Checkpointer(tmp_path).restore(make_state())


def test_foreign_and_temporary_folders_are_left_alone(tmp_path):
    for name in ("notes", "00000009.orbax-checkpoint-tmp", "12"):
        (tmp_path / name).mkdir()
    saved(tmp_path, steps=(1, 2, 3), keep_last=1)
    assert checkpoint.Checkpointer(tmp_path).restore(make_state()).step == 3
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"notes", "00000009.orbax-checkpoint-tmp", "12", "00000003"}


def test_keep_last_and_keep_every(tmp_path):
    saved(tmp_path, steps=range(1, 8), keep_last=2, keep_every=3)
    left = sorted(int(path.name) for path in tmp_path.iterdir())
    assert left == [3, 6, 7]


def test_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    saved(tmp_path)
    like = make_state()
    like["w"] = jnp.zeros((300, 41))
    with pytest.raises(ValueError, match=r"w: there .*40.*wanted .*41"):
        checkpoint.Checkpointer(tmp_path).restore(like)


def test_read_needs_no_template(tmp_path):
    saved(tmp_path)
    got = checkpoint.read(tmp_path)
    assert got.step == 2
    np.testing.assert_array_equal(got.state["w"], make_state(2)["w"])
    with pytest.raises(FileNotFoundError, match="run the training job first"):
        checkpoint.read(tmp_path / "none")


def test_read_of_a_prefix_reads_nothing_else(tmp_path):
    saved(tmp_path)
    got = checkpoint.read(tmp_path, prefix="h").state
    assert list(got) == ["half"]
    mesh = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    like = {"half": jax.ShapeDtypeStruct((8,), jnp.bfloat16, sharding=place)}
    spread = checkpoint.read(tmp_path, prefix="h", like=like).state["half"]
    assert spread.sharding == place
    assert np.asarray(spread).tobytes() == got["half"].tobytes()


def test_first_format_is_still_read_and_verified(tmp_path):
    arrays = checkpoint.flatten(make_state(3))
    entries = {
        name: {"shape": [*x.shape], "dtype": str(x.dtype), "sha256": unit.sha(x)}
        for name, x in arrays.items()
    }
    manifest = {"format": 1, "step": 3, "arrays": entries, "data": 5, "context": {}}
    manifest["digest"] = unit.digest_json(manifest)
    path = checkpoint.epath.Path(tmp_path / "00000003")
    unit.write(path, arrays, manifest).result()
    got = checkpoint.Checkpointer(tmp_path).restore(make_state())
    assert (got.step, got.data, got.metrics) == (3, 5, {})
    assert bits(got.state) == bits(make_state(3))
    wrong = manifest | {"arrays": entries | {"w": entries["w"] | {"sha256": "0"}}}
    wrong["digest"] = unit.digest_json(
        {k: v for k, v in wrong.items() if k != "digest"}
    )
    (tmp_path / "00000003/manifest/data.json").write_text(json.dumps(wrong))
    with pytest.raises(checkpoint.DamagedError, match="array 'w'"):
        checkpoint.read(tmp_path, 3)


def test_newer_format_is_refused_by_its_number(tmp_path):
    saved(tmp_path, steps=(1,))
    manifest = tmp_path / "00000001/manifest/data.json"
    record = json.loads(manifest.read_text()) | {"format": unit.FORMAT + 1}
    record["digest"] = unit.digest_json(
        {k: v for k, v in record.items() if k != "digest"}
    )
    manifest.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="update the program"):
        checkpoint.read(tmp_path)


def test_best_by_a_metric_is_kept_also_over_a_restart(tmp_path):
    options = {"keep_last": 1, "best_metric": "loss"}
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5}
    for step, loss in losses.items():  # each from a fresh process' point of view
        writer = checkpoint.Checkpointer(tmp_path, **options)
        writer.restore(make_state())
        writer.save(step, make_state(step), metrics={"loss": loss})
        writer.close()
    writer.save(5, make_state(5))  # was not evaluated
    writer.close()
    left = sorted(int(path.name) for path in tmp_path.iterdir())
    assert left == [2, 5]
    assert checkpoint.best_step(tmp_path, "loss") == 2
    assert checkpoint.read(tmp_path, 2).metrics == {"loss": 1.0}
    with pytest.raises(FileNotFoundError, match="evaluated by 'accuracy'"):
        checkpoint.best_step(tmp_path, "accuracy")


@pytest.mark.parametrize("on_error", checkpoint.ON_ERROR)
def test_save_that_fails_stops_the_run_or_is_counted(tmp_path, caplog, on_error):
    folder = tmp_path / "checkpoints"
    writer = saved(folder, on_error=on_error)
    folder.rename(tmp_path / "moved")
    folder.write_text("")  # a file where the folder was: nothing can be written there
    if on_error == "stop":
        with pytest.raises(checkpoint.SaveError, match="checkpoint 3 could not be"):
            writer.save(3, make_state(3))
            writer.wait()
    else:
        writer.save(3, make_state(3))
        writer.wait()
        assert writer.num_failed == 1 and "1 saves lost" in caplog.text
    folder.unlink()
    (tmp_path / "moved").rename(folder)
    got = checkpoint.Checkpointer(folder).restore(make_state())
    assert got.step == 2 and bits(got.state) == bits(make_state(2))
    if on_error == "continue":
        writer.save(4, make_state(4))  # the disk is back
        writer.close()
        assert checkpoint.read(folder).step == 4


_FULL_DISK = """
import resource, signal, sys, jax, jax.numpy as jnp
from cm3leon_jax.train import checkpoint
writer = checkpoint.Checkpointer(sys.argv[1], keep_last=9)
writer.save(1, {"w": jnp.arange(1000.0)})
writer.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes beyond the limit raise
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    writer.save(2, {"w": jax.random.normal(jax.random.key(0), (1_000_000,))})
    writer.wait()
except checkpoint.SaveError as error:
    print("stopped:", error)
print(checkpoint.read(sys.argv[1]).step)
"""


def test_disk_that_is_full_leaves_the_step_before_and_no_half_one(tmp_path):
    code = [sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    done = subprocess.run(
        code, check=False, capture_output=True, text=True, timeout=120
    )
    assert "stopped: checkpoint 2 could not be written" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    assert not (tmp_path / "00000002").exists()


@pytest.mark.slow
def test_fifty_saves_grow_neither_memory_nor_threads_nor_files(tmp_path):
    # Else glibc fills an arena a thread, which settles after hundreds of saves only.
    cpu.return_freed_memory()
    process = psutil.Process()
    like = {"w": jnp.zeros((1000, 500))}
    writer = checkpoint.Checkpointer(tmp_path, keep_last=1)
    seen = []
    for step in range(1, 71):
        writer.save(step, {"w": jnp.full((1000, 500), float(step))})
        if step % 4 == 0:
            writer.wait()
            checkpoint.Checkpointer(tmp_path).restore(like)
        if step in (20, 70):
            writer.wait()
            gc.collect()
            counts = (process.num_threads(), process.num_fds())
            seen.append((process.memory_info().rss, *counts))
    (before, *old), (after, *new) = seen
    assert after < 1.02 * before
    assert all(there <= here + 2 for there, here in zip(new, old, strict=True))


@pytest.mark.slow
def test_two_hundred_flips_of_a_bit_are_all_noticed_or_harmless(tmp_path):
    saved(tmp_path, steps=(1, 2))
    files = [p for p in (tmp_path / "00000002").rglob("*") if p.is_file()]
    files = [path for path in files if path.stat().st_size]
    rng = np.random.default_rng(1)
    silent = 0
    for number in range(200):
        path = files[number % len(files)]
        position, bit = rng.integers(path.stat().st_size), rng.integers(8)
        flip(path, position, bit)
        got = checkpoint.Checkpointer(tmp_path).restore(make_state())
        silent += bits(got.state) != bits(make_state(got.step))
        silent += got.data != {"epoch": 0, "row": got.step}
        flip(path, position, bit)
    assert silent == 0
