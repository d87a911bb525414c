"""Laws of folders of weights: shards and index belong together; pickles run nothing."""

import json

import numpy as np
import pytest
import safetensors.numpy

from cm3leon_jax.convert import files, folder
from cm3leon_jax.convert.safetensors_file import Spec

ARRAYS = {f"layer.{i}": np.full((4, 4), i, np.float32) for i in range(5)}


@pytest.fixture
def sharded(tmp_path):
    specs = {name: Spec(x.dtype, x.shape) for name, x in ARRAYS.items()}
    plan = folder.plan_shards(specs, shard_bytes=128)
    for shard in plan:
        folder.write_shard(tmp_path, shard, ARRAYS.__getitem__)
    folder.write_index(tmp_path, plan)
    return tmp_path


def test_shards_hold_what_fits_and_the_index_says_where(sharded):
    index = json.loads((sharded / files.INDEX).read_text())
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 1, 2, 2, 3)]
    assert list(index["weight_map"].values()) == names
    assert index["metadata"]["total_size"] == 5 * 64
    found = files.open_weights(sharded)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.tensor(name), array)
        held = safetensors.numpy.load_file(sharded / index["weight_map"][name])
        np.testing.assert_array_equal(held[name], array)


def test_one_file_needs_no_index_and_an_array_is_never_cut():
    specs = {name: Spec(x.dtype, x.shape) for name, x in ARRAYS.items()}
    assert [shard.name for shard in folder.plan_shards(specs, 320)] == [files.WEIGHTS]
    assert len(folder.plan_shards(specs, 1)) == 5
    with pytest.raises(ValueError, match="shard_bytes=0"):
        folder.plan_shards(specs, 0)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002"):
        files.open_weights(sharded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"new": m["layer.0"]}), "'new' is in .* does not hold it"),
        (lambda m: m.pop("layer.1"), r"leaves out \['layer\.1'\]"),
        (lambda m: m.update({"layer.0": "../x.safetensors"}), "files beside it"),
        (lambda m: m.update({"layer.0": "/etc/passwd"}), "files beside it"),
    ],
)
def test_an_index_of_another_export_is_refused(sharded, change, message):
    path = sharded / files.INDEX
    record = json.loads(path.read_text())
    change(record["weight_map"])
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        files.open_weights(sharded)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    arrays = {"a": np.array([1.0, np.nan], np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / files.WEIGHTS)
    with pytest.raises(ValueError, match="'a' holds values that are not finite"):
        files.open_weights(tmp_path).tensor("a")


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        files.open_weights(tmp_path)


class _Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


@pytest.mark.torch
def test_a_pickle_with_a_payload_runs_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    canary = tmp_path / "canary"
    torch.save(
        {"a": torch.zeros(2), "b": _Payload(canary)}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(ValueError, match="more than tensors"):
        files.open_weights(tmp_path)
    assert not canary.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert canary.exists()  # the trap was live


@pytest.mark.torch
def test_a_pickle_of_tensors_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4).bfloat16()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    found = files.open_weights(tmp_path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensor(name), tensor.float().numpy())
