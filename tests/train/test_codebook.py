"""Counting, averages and revival of codebook entries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.train import codebook

LATENTS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def _update(entries, counts, codes, config, step=0, can_revive=True, latents=LATENTS):
    return _jitted(entries, counts, codes, latents, config, step, can_revive)


@functools.partial(jax.jit, static_argnums=4)
def _jitted(entries, counts, codes, latents, config, step, can_revive):
    return codebook.update(
        entries,
        counts,
        codes,
        latents,
        config=config,
        step=step,
        can_revive=can_revive,
    )


def test_first_step_sets_every_entry_on_a_latent():
    entries = jnp.zeros((8, 4))
    config = codebook.CodebookConfig(dead_share=2.0, decay=0.99)
    after, counts, metrics = _update(
        entries, codebook.init(entries), jnp.zeros(64, jnp.int32), config
    )
    known = {tuple(row) for row in np.asarray(LATENTS).tolist()}
    revived = [tuple(row) in known for row in np.asarray(after).tolist()]
    assert all(revived)
    assert metrics["revived"] == 8
    np.testing.assert_allclose(counts.counts_C, 8.0)


def test_a_trained_codebook_is_not_revived_at_the_first_step():
    entries = jax.random.normal(jax.random.key(1), (8, 4))
    codes = jnp.zeros(64, jnp.int32)  # seven of the eight win nothing in this batch
    config = codebook.CodebookConfig(use_mean=True, decay=0.5)
    counts = codebook.init(entries, 64 / 8)
    after, _, metrics = _update(entries, counts, codes, config)
    assert metrics["revived"] == 0
    np.testing.assert_allclose(after[1:], entries[1:], rtol=1e-5)


def test_revival_is_the_same_every_time_and_stops_when_told():
    entries = jax.random.normal(jax.random.key(1), (8, 4))
    codes = jnp.zeros(64, jnp.int32)
    config = codebook.CodebookConfig(decay=0.5)
    one, two = (
        _update(entries, codebook.init(entries), codes, config)[0] for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[1:], entries[1:])
    late, _, metrics = _update(
        entries, codebook.init(entries), codes, config, can_revive=False
    )
    np.testing.assert_array_equal(late, entries)
    assert metrics["revived"] == 0


def test_entries_follow_the_mean_of_what_they_win():
    entries = jnp.zeros((2, 4))
    codes = jnp.repeat(jnp.arange(2, dtype=jnp.int32), 32)
    config = codebook.CodebookConfig(use_mean=True, decay=0.5)
    after, counts, _ = _update(entries, codebook.init(entries), codes, config)
    means = np.asarray(LATENTS).reshape(2, 32, 4).mean(1)
    np.testing.assert_allclose(after, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(counts.counts_C, 16.0)


def test_without_means_used_entries_are_left_to_the_gradient():
    entries = jax.random.normal(jax.random.key(1), (2, 4))
    codes = jnp.repeat(jnp.arange(2, dtype=jnp.int32), 32)
    after, _, _ = _update(
        entries, codebook.init(entries), codes, codebook.CodebookConfig(decay=0.5)
    )
    np.testing.assert_array_equal(after, entries)


@pytest.mark.parametrize("used", [1, 2, 4])
def test_perplexity_is_the_number_of_codes_used_alike(used):
    entries = jnp.zeros((4, 4))
    codes = jnp.arange(64, dtype=jnp.int32) % used
    _, _, metrics = _update(
        entries, codebook.init(entries), codes, codebook.CodebookConfig(decay=0.0)
    )
    np.testing.assert_allclose(metrics["perplexity"], used, rtol=1e-5)
    np.testing.assert_allclose(metrics["usage"], used / 4)


def test_revival_keeps_a_collapsed_codebook_in_use():
    entries = jnp.ones((16, 4)) * 100.0  # all entries far away: one wins everything
    usage, rng = {}, np.random.default_rng(0)
    for revives in (True, False):
        table, counts = entries, codebook.init(entries)
        config = codebook.CodebookConfig(use_mean=True, decay=0.9)
        for step in range(30):
            latents = rng.normal(size=(64, 4)).astype(np.float32)
            distances = ((latents[:, None] - np.asarray(table)) ** 2).sum(-1)
            codes = distances.argmin(-1).astype(np.int32)
            table, counts, metrics = _update(
                table, counts, codes, config, step, revives, latents
            )
        usage[revives] = float(metrics["usage"])
    assert usage[True] > 0.9
    assert usage[False] < 0.1
