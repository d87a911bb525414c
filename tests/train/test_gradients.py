"""Gradients that devices add up: the right sum, each its share, and no more is sent."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.models import attention, transformer
from cm3leon_jax.train import gradients

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


def mesh(**sizes):
    return sharding.make_mesh(sharding.MeshConfig(**sizes))


@pytest.mark.parametrize("wide", [1, 128])  # one stage, two stages
@pytest.mark.parametrize("dimension", [0, 1])
def test_every_device_gets_its_share_of_the_sum(monkeypatch, wide, dimension):
    monkeypatch.setattr(gradients, "_WIDE", wide)
    on = mesh()
    parts = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
    cut = PartitionSpec(*([None] * dimension), "fsdp")
    shares = jax.shard_map(
        lambda part: gradients.reduced(part[0], on, dimension),
        mesh=on,
        in_specs=PartitionSpec("fsdp"),
        out_specs=cut,
        check_vma=False,
    )(parts)
    np.testing.assert_allclose(shares, parts.sum(0), rtol=1e-5, atol=1e-5)


@functools.cache
def lowered(gradient_dtype="float32", **sizes):
    """Text of the gradient's program, compiled, of every weight of the model."""
    on = mesh(**sizes)
    config = transformer.TransformerConfig(
        **{**vars(CONFIG), "gradient_dtype": gradient_dtype}
    )
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
            shared=gradients.shared(on, transformer.LOGICAL_AXES),
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


def test_gradients_are_sent_in_the_dtype_that_is_asked_for():
    for dtype, name in (("float32", "f32"), ("bfloat16", "bf16")):
        scatters = re.findall(
            r"reduce_scatter.*?\) : \(tensor<[\dx]*x(\w+)>\)",
            lowered(dtype).as_text(),
            re.DOTALL,
        )
        assert scatters
        assert set(scatters) == {name}


def test_weights_that_are_not_cut_need_nothing():
    assert gradients.shared(mesh(data=8, fsdp=1), transformer.LOGICAL_AXES) is None
