"""Laws of attention over packed rows and over a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize("length", [1, 7, 63, 128, 130, 300])
def test_packed_attention_equals_a_float64_reference(length):
    rng = np.random.default_rng(0)
    q, k, v, g = rng.normal(size=(4, 2, length, 2, 8))
    q *= 10  # large logits
    cuts = np.sort(rng.integers(0, length + 1, (2, 3)), axis=1)
    places = np.arange(length)[None, :, None]
    segments = (places >= cuts[:, None]).sum(-1).astype(np.int32)  # 0: padding in front
    real = (segments > 0)[:, :, None, None]
    mask = np.asarray(attention.packed_causal_mask(jnp.asarray(segments)))

    def reference(q, k, v):
        scores = np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(8)
        scores = np.where(mask, scores, -1e30)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return real * np.einsum("bhlm,bmhk->blhk", weights, v)

    arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
    ours = lambda *a: real * attention.attend_packed(*a, segments)
    out, vjp = jax.vjp(ours, *arrays)
    np.testing.assert_allclose(out, reference(q, k, v), rtol=1e-4, atol=2e-5)
    step = 1e-5
    for i, gradient in enumerate(vjp(jnp.asarray(g, jnp.float32))):
        direction = rng.normal(size=q.shape)
        moved = [x + step * direction * (i == j) for j, x in enumerate((q, k, v))]
        back = [x - step * direction * (i == j) for j, x in enumerate((q, k, v))]
        slope = ((reference(*moved) - reference(*back)) * g).sum() / (2 * step)
        np.testing.assert_allclose(
            (gradient * direction).sum(), slope, rtol=2e-4, atol=1e-3
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_packed_attention_equals_the_masked_one_forward_and_backward(dtype):
    q, k, v, g = jax.random.normal(jax.random.key(0), (4, 2, 200, 2, 16), dtype)
    segments = jnp.asarray([[1] * 90 + [2] * 110, [1] * 150 + [2] * 30 + [0] * 20])
    mask = attention.packed_causal_mask(segments)
    g *= (segments > 0)[:, :, None, None]  # padding carries no loss

    def both(q, k, v, g):
        ours = lambda *a: attention.attend_packed(*a, segments)
        theirs = lambda *a: attention.attend(*a, mask)
        pairs = [jax.vjp(f, q, k, v) for f in (ours, theirs)]
        return [(out * (g != 0), *vjp(g)) for out, vjp in pairs]

    ours, theirs = jax.jit(both)(q, k, v, g)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_gradient_is_finite_when_a_whole_row_is_padding():
    q = jax.random.normal(jax.random.key(0), (1, 4, 2, 4))
    segments = jnp.zeros((1, 4), jnp.int32)
    grad = jax.grad(lambda q: attention.attend_packed(q, q, q, segments).sum())(q)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("is_rounded", [False, True])
def test_next_token_attends_to_the_cache_as_if_it_were_written(is_rounded):
    rows, heads, slots, width = 3, 2, 9, 8
    keys = jax.random.split(jax.random.key(0), 5)
    draw = lambda key, *shape: jax.random.normal(key, shape)
    k_BHMK, v_BHMK = (draw(key, rows, heads, slots, width) for key in keys[:2])
    q, new_k, new_v = (draw(key, rows, 1, heads, width) for key in keys[2:])
    start = 6
    is_valid_BM = np.ones((rows, slots), bool)
    is_valid_BM[1, :4] = is_valid_BM[2, :start] = False  # padding; nothing but itself
    past = jnp.asarray((is_valid_BM & (np.arange(slots) < start))[:, None, None])
    seen = jnp.asarray((is_valid_BM & (np.arange(slots) <= start))[:, None, None])
    caches = (k_BHMK, v_BHMK)
    if is_rounded:
        caches = [attention.Rounded(*attention.rounded(x, 3)) for x in caches]
    written = [
        attention.write(cache, new, start)
        for cache, new in zip(caches, (new_k, new_v), strict=True)
    ]
    expected = attention.attend_cached(q, *written, seen)
    found = attention.attend_next(q, new_k, new_v, *caches, past)
    # Its own key and value are not rounded before they are cached.
    tolerance = 0.02 if is_rounded else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
