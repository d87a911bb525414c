"""Laws of attention over packed rows and over a cache."""

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.models import attention


def test_packed_causal_mask_equals_its_worked_example():
    mask = attention.packed_causal_mask(jnp.array([[1, 1, 2, 2, 0]], jnp.int32))
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(mask[0, 0], expected)


def test_attend_on_packed_rows_equals_each_document_alone():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 5, 2, 4))
    mask = attention.packed_causal_mask(jnp.array([[1, 1, 2, 2, 2]], jnp.int32))
    packed = attention.attend(q, k, v, mask)
    for lo, hi in ((0, 2), (2, 5)):
        alone_mask = attention.packed_causal_mask(jnp.ones((1, hi - lo), jnp.int32))
        alone = attention.attend(q[:, lo:hi], k[:, lo:hi], v[:, lo:hi], alone_mask)
        np.testing.assert_allclose(packed[:, lo:hi], alone, rtol=1e-5, atol=1e-6)


def test_attend_equals_a_float64_reference_forward_and_backward():
    rng = np.random.default_rng(0)
    q, k, v, g = rng.normal(size=(4, 2, 7, 3, 8))
    segments = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 3, 3, 3]], np.int32)
    mask = np.asarray(attention.packed_causal_mask(jnp.asarray(segments)))

    def reference(q, k, v):
        scores = np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(8)
        scores = np.where(mask, scores, -1e30)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("bhlm,bmhk->blhk", weights, v)

    arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    out, vjp = jax.vjp(lambda *a: attention.attend_packed(*a, segments), *arrays)
    np.testing.assert_allclose(out, reference(q, k, v), rtol=1e-5, atol=1e-6)
    step = 1e-6
    for i, gradient in enumerate(vjp(jnp.asarray(g, jnp.float32))):
        direction = rng.normal(size=q.shape)
        moved = [x + step * direction * (i == j) for j, x in enumerate((q, k, v))]
        back = [x - step * direction * (i == j) for j, x in enumerate((q, k, v))]
        slope = ((reference(*moved) - reference(*back)) * g).sum() / (2 * step)
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


def test_gradient_is_finite_when_a_whole_row_is_padding():
    q = jax.random.normal(jax.random.key(0), (1, 4, 2, 4))
    segments = jnp.zeros((1, 4), jnp.int32)
    grad = jax.grad(lambda q: attention.attend_packed(q, q, q, segments).sum())(q)
    assert np.isfinite(grad).all()
