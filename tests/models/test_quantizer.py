"""Laws of the nearest-entry look-up and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import quantizer


def _quantizer(entries_CD, use_l2_norm=False):
    size, width = np.shape(entries_CD)
    made = quantizer.Quantizer(size, width, use_l2_norm=use_l2_norm, rngs=nnx.Rngs(0))
    made.embedding[...] = jnp.asarray(entries_CD, jnp.float32)
    return made


def test_nearest_of_equal_entries_is_the_first():
    latents = jnp.array([[0.0], [0.5], [2.0]])
    codes = quantizer.nearest(latents, jnp.array([[0.0], [1.0], [1.0]]))
    assert codes.tolist() == [0, 0, 1]


def test_nearest_equals_brute_force():
    latents, entries = np.random.default_rng(0).normal(size=(2, 40, 6))
    distances = ((latents[:, None] - entries) ** 2).sum(-1)
    codes = jax.jit(quantizer.nearest)(latents, entries)
    assert codes.tolist() == distances.argmin(1).tolist()


def test_normalised_look_up_ignores_length():
    made = _quantizer([[10.0, 0.0], [0.0, 0.1]], use_l2_norm=True)
    latents = jnp.array([0.1, 3.0]).reshape(1, 1, 1, 2)
    assert made.encode(latents).item() == 1
    np.testing.assert_allclose(
        made(latents).vectors_BYXD[0, 0, 0], [0.0, 1.0], atol=1e-6
    )
    by_distance = _quantizer([[10.0, 0.0], [0.0, 0.1]])
    assert by_distance.encode(jnp.array([9.0, 3.0]).reshape(1, 1, 1, 2)).item() == 0


def test_gradient_passes_straight_through():
    rng = np.random.default_rng(0)
    made = _quantizer(rng.normal(size=(8, 3)))
    latents, pull = rng.normal(size=(2, 2, 2, 2, 3)).astype(np.float32)

    def run(z):
        out = made(z)
        vectors = out.vectors_BYXD
        return jnp.sum(vectors * pull), (vectors, made.look_up(out.codes_BYX))

    gradient, (vectors, entries) = jax.jit(jax.grad(run, has_aux=True))(latents)
    np.testing.assert_allclose(gradient, pull, rtol=1e-6)
    np.testing.assert_allclose(vectors, entries, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["codebook_loss", "commitment_loss"])
def test_penalty_pulls_one_side_by_its_analytic_gradient(name):
    made = _quantizer([[0.0, 0.0], [4.0, 4.0]])
    latents = jnp.array([[1.0, 0.0], [3.0, 5.0]]).reshape(1, 1, 2, 2)
    penalty = jax.jit(jax.grad(lambda m, z: getattr(m(z), name), argnums=(0, 1)))
    of_made, of_latents = penalty(made, latents)
    of_latents, of_entries = of_latents.reshape(2, 2), of_made.embedding[...]
    # Mean of (z - e)^2 over 4 numbers: d/dz = (z - e) / 2, d/de = (e - z) / 2.
    pull = np.array([[0.5, 0.0], [-0.5, 0.5]])
    is_commitment = name == "commitment_loss"
    np.testing.assert_allclose(of_latents, pull * is_commitment, atol=1e-6)
    np.testing.assert_allclose(of_entries, -pull * (not is_commitment), atol=1e-6)
