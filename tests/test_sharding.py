"""The mesh, the table of axes, and what does not divide."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import transformer


def make(**sizes):
    return sharding.make_mesh(sharding.MeshConfig(**sizes))


def test_minus_one_takes_the_devices_that_are_left():
    assert dict(make(tensor=2).shape) == {
        "data": 1,
        "fsdp": 4,
        "tensor": 2,
        "sequence": 1,
    }


@pytest.mark.parametrize(
    "sizes", [{"tensor": 3}, {"data": -1, "fsdp": -1}, {"fsdp": 0}, {"fsdp": 4}]
)
def test_mesh_that_is_not_all_devices_is_refused(sizes):
    with pytest.raises(ValueError, match="MeshConfig"):
        make(**sizes)


def test_parameters_are_cut_by_the_table():
    config = transformer.TransformerConfig(
        num_layers=2,
        num_heads=4,
        model_dim=32,
        head_dim=8,
        mlp_dim=64,
        vocab_size=64,
        max_length=16,
    )
    init = lambda: transformer.Transformer(config, rngs=nnx.Rngs(0))
    model = jax.eval_shape(init)
    mesh = make(tensor=2)
    places = sharding.shardings(model, mesh, transformer.LOGICAL_AXES)
    up = places.blocks.up_DF.get_value()
    assert up.spec == PartitionSpec(None, "fsdp", "tensor")
    assert places.token_embedding_VD.get_value().spec == PartitionSpec("tensor", "fsdp")
    with pytest.raises(ValueError, match=r"heads=4 must be a multiple .*tensor=8"):
        wrong = make(fsdp=1, tensor=8)
        blocks = model.blocks
        sharding.shardings(blocks, wrong, transformer.LOGICAL_AXES)


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="6 rows of 16 tokens"):
        sharding.put_batch([np.zeros((6, 16), np.int32)], make())


def test_put_batch_keeps_the_rows():
    rows = np.arange(128, dtype=np.int32).reshape(8, 16)
    (got,) = sharding.put_batch([rows], make(sequence=2))
    np.testing.assert_array_equal(got, rows)
    assert got.addressable_shards[0].data.shape == (2, 8)
