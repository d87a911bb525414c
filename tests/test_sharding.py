"""The mesh, the table of axes, and what does not divide."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import attention, transformer


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
    ("sizes", "nearest"),
    [
        ({"tensor": 3}, {"tensor": 2, "fsdp": 4}),
        ({"tensor": 4, "sequence": 4}, {"tensor": 4, "fsdp": 1, "sequence": 2}),
        ({"data": -1, "fsdp": -1}, {"fsdp": 8}),
        ({"fsdp": 0}, {"fsdp": 8}),
        ({"data": 2, "fsdp": 2}, {"data": 2, "fsdp": 4}),
    ],
)
def test_mesh_that_is_not_all_devices_is_refused_with_the_nearest(sizes, nearest):
    with pytest.raises(ValueError, match="the nearest that works is") as error:
        make(**sizes)
    assert str(error.value).endswith(str(sharding.MeshConfig(**nearest)))
    make(**nearest)


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
    with pytest.raises(ValueError, match=r"heads=4 must be .* nearest .* tensor=4"):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_rows": 12}, "12 rows a step .* multiple of 8 .* the nearest is 16"),
        ({"num_microbatches": 8}, "16 rows a step.*=8 x data x fsdp .* nearest is 32"),
        ({"length": 65}, "65 tokens a row .* sequence.* the nearest is 64"),
        ({"num_heads": 5}, "5 heads .* tensor x sequence.* the nearest is 4"),
    ],
)
def test_rows_that_the_mesh_cannot_share_out_are_refused(change, message):
    mesh = make(data=2, fsdp=2, sequence=2)
    fits = {"num_rows": 16, "length": 64, "num_heads": 4, "num_microbatches": 2}
    sharding.check_rows(mesh, **fits)
    with pytest.raises(ValueError, match=message):
        sharding.check_rows(mesh, **(fits | change))


@pytest.mark.parametrize(
    "sizes", [(8, 1, 1, 1), (1, 2, 2, 2), (1, 1, 4, 2), (1, 2, 1, 4)]
)
def test_attention_spread_over_a_mesh_equals_that_of_one_device(sizes):
    q, k, v, out = jax.random.normal(jax.random.key(0), (4, 8, 64, 8, 4))
    segments = np.repeat(np.array([[1] * 30 + [2] * 34]), 8, axis=0)
    mesh = make(**dict(zip(sharding.AXES, sizes, strict=True)))

    def results(function):
        mixed, vjp = jax.vjp(lambda *a: function(*a, segments), q, k, v)
        return mixed, *vjp(out)

    spread = sharding.spread(attention.attend_packed, mesh)
    for a, b in zip(
        jax.jit(lambda: results(spread))(),
        jax.jit(lambda: results(attention.attend_packed))(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_activation_lies_where_its_logical_axes_say():
    mesh = make(fsdp=2, tensor=2, sequence=2)
    place = sharding.constrain(mesh)
    x = jax.jit(
        lambda: place(jax.numpy.zeros((4, 8, 16)), ("batch", "length", "mlp"))
    )()
    assert x.sharding.shard_shape(x.shape) == (2, 4, 8)


class Chip:
    """A chip of a slice, as JAX describes it: all that is asked before a mesh is made."""

    platform = "tpu"

    def __init__(self, slice_index):
        self.slice_index = slice_index


def test_slices_that_would_share_a_copy_are_refused():
    chips = [Chip(index // 4) for index in range(8)]
    with pytest.raises(
        ValueError, match=r"mesh.data=1 must be a multiple of slices=\{0, 1\}"
    ):
        sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=-1), chips)


@pytest.mark.tpu
def test_slices_hold_whole_copies(monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    topologies = pytest.importorskip("jax.experimental.topologies")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name="v5e:4x4", num_slices=2
        )
    except (RuntimeError, NotImplementedError, ImportError):
        pytest.skip("needs libtpu")
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=-1), found.devices)
    slices = [{chip.slice_index for chip in row.flat} for row in mesh.devices]
    assert slices == [{0}, {0}, {1}, {1}]
    assert dict(mesh.shape) == {"data": 4, "fsdp": 8, "tensor": 1, "sequence": 1}
