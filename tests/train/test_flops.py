"""The model's operations against hand counts and against the compiler's own."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cm3leon_jax.models import attention, transformer
from cm3leon_jax.train import flops


def _config(**changes):
    fields = {
        "num_layers": 2,
        "num_heads": 4,
        "model_dim": 256,
        "head_dim": 64,
        "mlp_dim": 1024,
        "vocab_size": 512,
        "max_length": 64,
        "scan_layers": False,
    }
    return transformer.TransformerConfig(**(fields | changes))


def _paper(layers, dim, heads):
    return _config(
        num_layers=layers,
        num_heads=heads,
        model_dim=dim,
        head_dim=dim // heads,
        mlp_dim=4 * dim,
        vocab_size=65_536,
        max_length=4096,
    )


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((24, 1024, 16), 373_293_056),
        ((24, 1536, 16), 786_432_000),
        ((32, 4096, 32), 6_727_663_616),
    ],
)
def test_per_token_is_six_times_the_weights_and_the_visible_keys(shape, parameters):
    layers, dim, _ = shape
    positions = 4096 * dim  # looked up, never multiplied
    expected = 6 * (parameters - positions) + 6 * layers * dim * 4097
    assert flops.per_token(_paper(*shape), 4096).training == expected


def test_per_token_counts_the_head_of_untied_embeddings_once():
    tied = _config()
    untied = dataclasses.replace(tied, tie_embeddings=False)
    assert flops.per_token(tied, 64) == flops.per_token(untied, 64)


def _dense(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
    mask = attention.packed_causal_mask(segment_ids_BL)
    return attention.attend(q_BLHK, k_BLHK, v_BLHK, mask)


@pytest.mark.parametrize("has_backward", [False, True])
def test_per_token_is_what_the_compiler_counts_of_an_unrolled_model(has_backward):
    config = _config()
    rows, length = 2, 64
    model = jax.eval_shape(
        lambda: transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    )
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def total(model, ids):
        x_BLD = model(ids, ids, ids, attention=_dense)
        return jnp.square(model.head(x_BLD)).sum()

    function = jax.grad(total) if has_backward else total
    counted = jax.jit(function).lower(model, ids).cost_analysis()["flops"]
    part = flops.per_token(config, length)
    # The dense reference multiplies hidden keys too: all L, not (L + 1) / 2.
    dense = dataclasses.replace(part, attention=part.attention * 2 * length / 65)
    expected = dense.training if has_backward else dense.forward
    # The compiler adds norms and softmax; the law is about the products.
    assert expected * rows * length == pytest.approx(counted, rel=0.05)
    assert expected * rows * length < counted


def test_utilisation_of_a_run_at_the_peak_is_one():
    config = _config()
    rate = 1e12 / flops.per_token(config, 64).training
    found = flops.utilisation(config, 64, tokens_per_second=rate, peak_flops=1e12)
    assert found == pytest.approx(1.0)
