"""Laws of the functions on logits, and their worked examples."""

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.decoding import logits

ROWS, SIZE = 5, 11


def _random(seed):
    return jax.random.normal(jax.random.key(seed), (ROWS, SIZE)) * 3


def _full(value, dtype=jnp.float32):
    return jnp.full((ROWS,), value, dtype)


def test_keep_top_k_example():
    kept = logits.keep_top_k(jnp.array([[2.0, 1.0, 3.0, 0.0]]), jnp.array([2]))
    np.testing.assert_array_equal(kept, [[2.0, -np.inf, 3.0, -np.inf]])


def test_keep_top_k_of_zero_or_all_keeps_everything():
    for k in (0, SIZE, SIZE + 5):
        kept = logits.keep_top_k(_random(0), _full(k, jnp.int32))
        np.testing.assert_array_equal(kept, _random(0))


def test_keep_top_p_example():
    rows = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = logits.keep_top_p(rows, jnp.array([0.7]))
    np.testing.assert_array_equal(kept > -jnp.inf, [[True, True, False, False]])


def test_keep_top_p_of_one_is_plain_even_for_tiny_probabilities():
    rows = _random(1) * 20
    np.testing.assert_array_equal(logits.keep_top_p(rows, _full(1.0)), rows)


def test_keep_top_p_keeps_at_least_one():
    kept = logits.keep_top_p(_random(2), _full(1e-9)) > -jnp.inf
    np.testing.assert_array_equal(kept.sum(axis=1), 1)
    np.testing.assert_array_equal(kept.argmax(axis=1), _random(2).argmax(axis=1))


def test_filters_leave_forbidden_ids_forbidden():
    rows = _random(3).at[:, ::2].set(-jnp.inf)
    for kept in (
        logits.keep_top_k(rows, _full(4, jnp.int32)),
        logits.keep_top_p(rows, _full(0.9)),
    ):
        assert bool(jnp.all(kept[:, ::2] == -jnp.inf))
        assert bool(jnp.all(jnp.any(kept > -jnp.inf, axis=1)))


def test_guide_of_one_is_conditional_and_of_zero_unconditional():
    conditional, unconditional = _random(4), _random(5)
    one = logits.guide(conditional, unconditional, _full(1.0))
    np.testing.assert_array_equal(one, conditional)
    zero = logits.guide(conditional, unconditional, _full(0.0))
    np.testing.assert_allclose(zero, unconditional, rtol=1e-6)


def test_guide_two_with_equal_scales_is_one_guidance():
    full, image, neither = _random(6), _random(7), _random(8)
    two = logits.guide_two(full, image, neither, _full(3.0), _full(3.0))
    one = logits.guide(full, neither, _full(3.0))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


def test_guide_two_of_ones_is_the_full_prompt():
    full, image, neither = _random(6), _random(7), _random(8)
    plain = logits.guide_two(full, image, neither, _full(1.0), _full(1.0))
    np.testing.assert_array_equal(plain, full)


def test_contrast_with_k_of_one_is_the_published_rule():
    """Li et al.: log p_exp / p_ama where p_exp >= alpha max p_exp, else -inf."""
    expert = np.array([[0.5, 0.3, 0.2, 1e-9], [0.1, 0.2, 0.3, 0.4]])
    amateur = np.array([[0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
    got = logits.contrast(
        jnp.log(expert),
        jnp.log(amateur),
        jnp.ones(2, jnp.int32),
        jnp.full(2, 0.5),
        jnp.ones(2),
    )
    expected = np.log(expert / amateur)
    expected[expert < 0.5 * expert.max(axis=1, keepdims=True)] = -np.inf
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_array_equal(np.isfinite(got)[0], [True, True, False, False])


def test_contrast_cuts_at_the_kth_probability():
    expert = jnp.log(jnp.array([[0.9, 0.06, 0.03, 0.01]]))
    for k, kept in ((1, 1), (2, 3), (3, 3), (4, 4)):
        cut = logits.contrast(
            expert,
            jnp.zeros((1, 4)),
            jnp.array([k], jnp.int32),
            jnp.array([0.5]),
            jnp.ones(1),
        )
        assert int(jnp.isfinite(cut).sum()) == kept


def test_contrast_of_equal_models_is_a_temperature():
    """log p - log p^(1/2): half of the expert's logits, a temperature of 2."""
    rows = _random(9)
    contrasted = logits.contrast(
        rows, rows, _full(SIZE, jnp.int32), _full(0.0), _full(2.0)
    )
    np.testing.assert_allclose(
        jax.nn.softmax(contrasted), jax.nn.softmax(rows / 2), rtol=1e-4
    )


def test_draw_without_noise_is_the_largest():
    noise = jax.random.gumbel(jax.random.key(0), (ROWS, SIZE)) * 100
    drawn = logits.draw(_random(10), noise, jnp.ones(ROWS, bool))
    np.testing.assert_array_equal(drawn, _random(10).argmax(axis=1))


def test_draw_follows_the_softmax():
    probs = jnp.array([0.6, 0.3, 0.1, 0.0])
    rows = jnp.broadcast_to(jnp.log(probs)[None], (20_000, 4))
    noise = jax.random.gumbel(jax.random.key(1), rows.shape)
    drawn = logits.draw(rows, noise, jnp.zeros(len(rows), bool))
    shares = np.bincount(np.asarray(drawn), minlength=4) / len(rows)
    np.testing.assert_allclose(shares, probs, atol=0.015)
