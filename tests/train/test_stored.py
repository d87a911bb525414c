"""Arrays of a checkpoint are read entry by entry, and are what was written."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.train import checkpoint, state, stored, unit
from tests import small_models

LARGE = (3, 256, 257)  # an entry of it lies by itself on the disk


def make_state(seed=0):
    draw = np.random.default_rng(seed).normal
    return {
        "model": {
            "stack": jnp.asarray(draw(size=LARGE), jnp.float32),
            "half": jnp.asarray(draw(size=(4, 6)), jnp.bfloat16),
            "scale": jnp.asarray(draw(size=(5,)), jnp.float32),
        },
        "optimizer": {"count": jnp.asarray(seed, jnp.int32)},
    }


def save(folder, *seeds, place=lambda x: x):
    writer = checkpoint.Checkpointer(folder, context={"vocab": 9})
    for seed in seeds:
        writer.save(seed, place(make_state(seed)))
    writer.close()


def data_files(step):
    return [p for p in (step / "state").rglob("d/*") if p.stat().st_size > 50_000]


def assert_is(found, seed):
    wanted = make_state(seed)["model"]
    assert found.specs.keys() == wanted.keys()
    for name, array in wanted.items():
        array = np.asarray(array)
        assert (found.specs[name].shape, found.specs[name].dtype) == (
            array.shape,
            array.dtype,
        )
        np.testing.assert_array_equal(found.read(name), array)
        for row in range(len(array)):
            np.testing.assert_array_equal(found.read(name, row), array[row])


def on_devices(arrays):
    """The stack's layers and columns cut over four devices, the rest on all."""
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("x", "y"), kinds, devices=jax.devices()[:4])
    spec = jax.sharding.PartitionSpec
    rows = lambda x: spec(None, "y", None) if x.shape == LARGE else spec()
    spread = lambda x: jax.device_put(x, jax.sharding.NamedSharding(mesh, rows(x)))
    return jax.tree.map(spread, arrays)


@pytest.mark.parametrize("place", [lambda x: x, on_devices])
@pytest.mark.parametrize("box_bytes", [1, 70_000, 1 << 30])
def test_what_is_read_is_what_was_saved(tmp_path, monkeypatch, place, box_bytes):
    monkeypatch.setattr(stored, "_BOX_BYTES", box_bytes)
    save(tmp_path, 1, 2, place=place)
    found = stored.open_newest(str(tmp_path), prefix="model/")
    assert (found.step, found.context) == (2, {"vocab": 9})
    assert_is(found.state, 2)


def test_boxes_are_whole_chunks_that_fill_the_room(monkeypatch):
    monkeypatch.setattr(stored, "_BOX_BYTES", 160)
    kind = np.dtype("float32")
    assert stored._box_shape((6, 4, 8), (1, 2, 8), kind) == [1, 4, 8]
    assert stored._box_shape((6, 4, 8), (6, 4, 8), kind) == [6, 4, 8]
    assert stored._box_shape((100,), (7,), kind) == [35]
    assert stored._box_shape((), (), kind) == []


def test_only_large_entries_lie_apart_so_that_one_is_read_alone(tmp_path):
    save(tmp_path, 1)
    step = tmp_path / "00000001"
    found = stored.open_newest(str(tmp_path), prefix="model/").state
    chunk = lambda name: found._arrays[name].chunk_layout.read_chunk.shape
    assert chunk("stack") == (1, *LARGE[1:]) and chunk("half") == (4, 6)
    # One layer is damaged on the disk after it was verified: the others are still read.
    (path,) = data_files(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 6] ^= 255
    path.write_bytes(data)
    read = []
    for row in range(LARGE[0]):
        try:
            read.append(np.array_equal(found.read("stack", row), STACK[row]))
        except unit.DamagedError:
            read.append(False)
    assert sum(read) == LARGE[0] - 1


STACK = np.asarray(make_state(1)["model"]["stack"])


def test_a_damaged_step_is_not_used(tmp_path, caplog):
    save(tmp_path, 1, 2)
    (path,) = data_files(tmp_path / "00000002")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = stored.open_newest(str(tmp_path), prefix="model/")
    assert found.step == 1 and "checkpoint 2 is not used" in caplog.text
    assert_is(found.state, 1)
    for path in data_files(tmp_path / "00000001"):
        path.unlink()
    with pytest.raises(checkpoint.DamagedError, match="take an earlier checkpoint"):
        stored.open_newest(str(tmp_path), prefix="model/")


def _rewrite(step, change):
    """Changes a step's manifest, its digest included."""
    path = step / "manifest" / "data.json"
    record = json.loads(path.read_text())
    del record["digest"]
    change(record["arrays"])
    path.write_text(json.dumps(record | {"digest": unit.digest_json(record)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["model/half"].update(digest="0" * 16), "'half' differs from its"),
        (lambda a: a["model/half"].update(shape=[6, 4]), "'half' is .*bfloat16"),
        (lambda a: a.update({"model/new": a["model/half"]}), "cannot be read"),
    ],
)
def test_a_manifest_of_other_arrays_is_damage(tmp_path, change, message):
    save(tmp_path, 1)
    _rewrite(tmp_path / "00000001", change)
    with pytest.raises(checkpoint.DamagedError, match=message):
        stored.open_newest(str(tmp_path), prefix="model/")


def test_a_checkpoint_of_the_first_format_is_read(tmp_path):
    save(tmp_path, 1)
    wanted = make_state(1)["model"]

    def to_first(arrays):
        for name, entry in arrays.items():
            entry.pop("digest")
            entry["sha256"] = unit.sha(wanted.get(name.removeprefix("model/"), 1))

    _rewrite(tmp_path / "00000001", to_first)
    assert_is(stored.open_newest(str(tmp_path), prefix="model/").state, 1)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    arrays = make_state(1)
    arrays["model"]["half"] = arrays["model"]["half"].at[1, 2].set(jnp.nan)
    writer = checkpoint.Checkpointer(tmp_path)
    writer.save(1, arrays)
    writer.close()
    with pytest.raises(ValueError, match="'half' holds weights that are not finite"):
        stored.open_newest(str(tmp_path), prefix="model/")


def test_the_model_of_a_job_has_the_arrays_that_are_loaded(tmp_path):
    model = small_models.random_model(small_models.model_config(40))
    writer = checkpoint.Checkpointer(
        tmp_path / state.CHECKPOINTS,
        context={"model": dataclasses.asdict(model.config)},
    )
    writer.save(3, {"model": model, "optimizer": {"count": jnp.zeros(())}})
    writer.close()
    loaded, context = state.load_model(str(tmp_path))
    found = state.open_model(str(tmp_path))
    assert found.context == context
    arrays = small_models.arrays_of(loaded)
    assert found.state.specs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.state.read(name), array)
