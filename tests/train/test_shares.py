"""Shares of weights: gathered in order, sums in the right place, and no more is sent."""

import dataclasses
import functools
import importlib.util
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import attention, layers, transformer
from cm3leon_jax.plan import collectives, hlo, topology
from cm3leon_jax.train import shares

CONFIG = transformer.TransformerConfig(
    num_layers=2,
    num_heads=4,
    model_dim=32,
    head_dim=8,
    mlp_dim=64,
    vocab_size=64,
    max_length=16,
)
REDUCED = re.compile(r"= (\(?\w+\[.*?) all-reduce(?:-start)?\(")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
STAGES = pytest.mark.parametrize("wide", [1, 128])  # one stage, two stages


def mesh(**sizes):
    return sharding.make_mesh(sharding.MeshConfig(**sizes))


@STAGES
@pytest.mark.parametrize("dimension", [0, 1])
def test_every_device_gets_its_share_of_the_sum(monkeypatch, wide, dimension):
    monkeypatch.setattr(shares, "_WIDE", wide)
    on = mesh()
    parts = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
    cut = PartitionSpec(*([None] * dimension), "fsdp")
    found = jax.shard_map(
        lambda part: shares.reduced(part[0], on, dimension),
        mesh=on,
        in_specs=PartitionSpec("fsdp"),
        out_specs=cut,
        check_vma=False,
    )(parts)
    np.testing.assert_allclose(found, parts.sum(0), rtol=1e-5, atol=1e-5)


@STAGES
@pytest.mark.parametrize("dimension", [0, 1])
def test_every_device_gets_all_shares_in_their_order(monkeypatch, wide, dimension):
    monkeypatch.setattr(shares, "_WIDE", wide)
    on = mesh()
    weights = np.arange(16 * 24.0).reshape(16, 24)
    everywhere = jax.shard_map(
        lambda share: shares.gathered(share, on, dimension)[None],
        mesh=on,
        in_specs=PartitionSpec(*([None] * dimension), "fsdp"),
        out_specs=PartitionSpec("fsdp"),
        check_vma=False,
    )(weights)
    np.testing.assert_array_equal(everywhere, np.stack([weights] * 8))


@pytest.mark.tpu
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs the extra tpu"
)
@pytest.mark.parametrize("shape", [(4096, 8192), (8192, 4096)])
def test_a_pod_gathers_narrow_shares_and_sums_none(monkeypatch, shape):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    chips = topology.chips(topology.parse("v5p:4x8x8"))
    on = sharding.make_mesh(sharding.MeshConfig(), chips)
    share = shares.Share(on, ("embed", None) if shape[0] == 4096 else (None, "embed"))
    cut, rows = sharding.spec(share.logical), sharding.spec(("batch", None))

    def product(x_RA, weights):
        return x_RA @ share.whole(weights)

    places = NamedSharding(on, rows), NamedSharding(on, cut)
    arrays = (
        jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=place)
        for size, place in zip(((65_536, shape[0]), shape), places, strict=True)
    )
    text = jax.jit(product, out_shardings=places[0]).trace(*arrays)
    text = text.lower(lowering_platforms=("tpu",)).compile().as_text()
    kinds = {one.kind for one in collectives.find(hlo.parse(text), len(chips))}
    assert kinds == {"all-gather"}


@functools.cache
def lowered(dtype="float32", gradient_dtype="float32", **sizes):
    """The gradient's program of every weight of the model."""
    on = mesh(**sizes)
    config = dataclasses.replace(CONFIG, dtype=dtype, gradient_dtype=gradient_dtype)
    init = lambda: transformer.Transformer(config, rngs=nnx.Rngs(0))
    model = jax.eval_shape(init)
    places = sharding.shardings(model, on, transformer.LOGICAL_AXES)
    rows = jax.ShapeDtypeStruct((16, 16), jnp.int32)

    def total(model, tokens_BL):
        x_BLD = model(
            tokens_BL,
            tokens_BL,
            jnp.ones_like(tokens_BL),
            attention=sharding.spread(attention.attend_packed, on),
            constrain=sharding.constrain(on),
            shared=shares.of_weights(on, transformer.LOGICAL_AXES),
        )
        return x_BLD.sum()

    gradient = jax.jit(
        jax.grad(total),
        in_shardings=(places, sharding.batch_sharding(on)),
        out_shardings=places,
    )
    return gradient.lower(model, rows)


@pytest.mark.parametrize("sizes", [{}, {"tensor": 2}, {"data": 2}, {"sequence": 2}])
def test_no_gradient_of_a_weight_is_sent_whole(sizes):
    text = lowered(**sizes).compile().as_text()
    assert "reduce-scatter" in text
    cut = sizes.get("tensor", 1)
    weights = {
        (32, 3, 4 // cut, 8),
        (4 // cut, 8, 32),
        (32, 64 // cut),
        (64 // cut, 32),
    }
    whole = {tuple(sorted(shape)) for shape in weights}
    for shape in SHAPE.findall(" ".join(REDUCED.findall(text))):  # several at once too
        sizes_of_it = (int(size) for size in shape.split(",") if size)
        assert tuple(sorted(size for size in sizes_of_it if size > 1)) not in whole


@pytest.mark.parametrize(
    ("kind", "option"), [("reduce_scatter", "gradient_dtype"), ("all_gather", "dtype")]
)
def test_gradients_and_weights_are_sent_in_the_dtype_that_is_asked_for(kind, option):
    for dtype, name in (("float32", "f32"), ("bfloat16", "bf16")):
        sent = re.findall(
            rf"stablehlo\.{kind}.*?[)>] : \(tensor<[\dx]*x(\w+)>\)",
            lowered(**{option: dtype}).as_text(),
            re.DOTALL,
        )
        assert sent
        assert set(sent) == {name}


@STAGES
@pytest.mark.parametrize("sizes", [{}, {"tensor": 2}, {"data": 2}, {"sequence": 2}])
@pytest.mark.parametrize("logical", [("embed", "mlp"), ("mlp", "embed")])
def test_a_product_of_shares_equals_that_of_the_whole(
    monkeypatch, wide, sizes, logical
):
    monkeypatch.setattr(shares, "_WIDE", wide)
    on = mesh(**sizes)
    draw = np.random.default_rng(0).normal
    x_BLD, weights = draw(size=(8, 4, 32)), draw(size=(32, 32))

    @functools.partial(jax.jit, static_argnums=2)
    def value_and_gradients(x_BLD, weights, shared):
        product = functools.partial(layers.project, shared=shared)
        y_BLF, back = jax.vjp(product, x_BLD, weights)
        return y_BLF, back(jnp.cos(y_BLF))

    places = sharding.batch_sharding(on), NamedSharding(on, sharding.spec(logical))
    cut = jax.device_put((x_BLD, weights), places)
    found = value_and_gradients(*cut, shares.Share(on, logical))
    expected = value_and_gradients(x_BLD, weights, None)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_not_cut_need_nothing():
    assert shares.of_weights(mesh(data=8, fsdp=1), transformer.LOGICAL_AXES) is None
