"""Checkpoints come back whole, or say what is damaged."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.train import checkpoint


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


def test_restore_takes_the_template_sharding(tmp_path):
    saved(tmp_path)
    mesh = jax.make_mesh((4,), ("fsdp",), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("fsdp")
    like = make_state()
    like["w"] = jax.device_put(like["w"], jax.sharding.NamedSharding(mesh, spec))
    got = checkpoint.Checkpointer(tmp_path).restore(like).state
    assert got["w"].sharding == like["w"].sharding
    assert bits(got) == bits(make_state(2))


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
    record["arrays"]["w"]["sha256"] = "0" * 64
    record["digest"] = checkpoint._digest_json(record)
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
