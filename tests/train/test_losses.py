"""The chunked loss equals the plain one, and never makes all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from cm3leon_jax import sharding
from cm3leon_jax.train import losses, shares

CHUNKED = {"num_rows": 8, "length": 256, "vocab_size": 1000}


def inputs(batch=2, length=12, width=8, vocab=30):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, length, width)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(vocab, width)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, vocab, (batch, length)), jnp.int32)
    weights = jnp.asarray(rng.random((batch, length)), jnp.float32)
    return x, table, targets, weights.at[1, 5:].set(0)


def plain(x, table, targets, weights, z_loss=0.0):
    logits = jnp.einsum("bld,vd->blv", x, table)
    norm = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = norm - picked
    return (weights * (nll + z_loss * norm**2)).sum(), nll


@pytest.mark.parametrize("num_chunks", [1, 3, 12])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_loss_and_gradients_equal_full_logits(num_chunks, z_loss):
    x, table, targets, weights = inputs()

    def ours(x, table):
        return losses.next_token_loss(
            x, table, targets, weights, num_chunks=num_chunks, z_loss=z_loss
        )

    theirs = lambda x, table: plain(x, table, targets, weights, z_loss)
    (got, nll), got_grads = jax.value_and_grad(ours, (0, 1), has_aux=True)(x, table)
    (total, expected_nll), grads = jax.value_and_grad(theirs, (0, 1), has_aux=True)(
        x, table
    )
    np.testing.assert_allclose(got, total, rtol=1e-6)
    np.testing.assert_allclose(ours(x, table)[0], total, rtol=1e-6)
    np.testing.assert_allclose(nll, expected_nll, rtol=1e-5, atol=1e-5)
    for a, b in zip(got_grads, grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_no_array_of_all_logits_is_made():
    x, table, targets, weights = inputs()
    loss = lambda x: losses.next_token_loss(x, table, targets, weights, num_chunks=3)[0]
    text = jax.jit(jax.grad(loss)).lower(x).as_text()
    assert "2x4x30xf32" in text  # one piece
    assert "2x12x30x" not in text and "24x30x" not in text


@pytest.mark.parametrize("sizes", [(2, 2, 1, 2), (1, 2, 4, 1), (8, 1, 1, 1)])
def test_loss_over_a_mesh_equals_that_of_one_device(sizes):
    mesh = sharding.make_mesh(sharding.MeshConfig(*sizes))
    x, table, targets, weights = inputs(batch=8, vocab=32)

    def results(**options):
        def ours(x, table):
            return losses.next_token_loss(x, table, targets, weights, **options)

        grad = jax.value_and_grad(ours, (0, 1), has_aux=True)
        (total, nll), grads = jax.jit(grad)(x, table)
        return total, jax.jit(ours)(x, table)[0], nll, *grads

    options = {"num_chunks": 3, "z_loss": 1e-2}
    for got, expected in zip(
        results(mesh=mesh, **options), results(**options), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_table_is_gathered_once_and_its_gradient_reduced_once(monkeypatch):
    monkeypatch.setattr(shares, "_WIDE", 1)  # in one stage
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
    x, table, targets, weights = inputs(batch=8)
    place = lambda *logical: NamedSharding(mesh, sharding.spec(logical))
    shardings = (place("batch", "length", None), place("vocab", "embed"))

    def loss(x, table):
        return losses.next_token_loss(
            x, table, targets, weights, num_chunks=6, mesh=mesh
        )[0]

    step = jax.jit(jax.grad(loss, (0, 1)), in_shardings=shardings)
    text = step.lower(x, table).as_text()
    assert text.count("stablehlo.all_gather") == 1
    assert text.count("stablehlo.reduce_scatter") == 1
    assert text.count("stablehlo.all_reduce") == 1  # the same gradient, over data
    body = text[text.index("stablehlo.while") : text.index("stablehlo.reduce_scatter")]
    assert "all_gather" not in body and "all_reduce" not in body


def test_loss_of_weightless_rows_is_0_with_finite_gradients():
    x, table, targets, weights = inputs()
    loss = lambda x: losses.next_token_loss(x, table, targets, 0 * weights)[0]
    total, grad = jax.value_and_grad(loss)(1e4 * x)
    assert total == 0 and not np.any(grad)


@pytest.mark.parametrize(
    ("chunk_bytes", "expected"), [(10**9, 1), (4 * 8 * 256 * 1000, 1), (10**6, 16)]
)
def test_chunks_are_the_fewest_that_fit_and_divide(chunk_bytes, expected):
    got = losses.chunks_for(chunk_bytes, **CHUNKED)
    assert got == expected


def test_chunks_divide_what_a_device_has():
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2, sequence=2))
    share = 4 * 4 * 128 * 500  # bytes of a device's logits
    assert losses.chunks_for(share, mesh=mesh, **CHUNKED) == 1
    assert losses.chunks_for(1, mesh=mesh, **CHUNKED) == 128


def test_chunks_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_chunks=5 must divide"):
        losses.next_token_loss(*inputs(), num_chunks=5)
