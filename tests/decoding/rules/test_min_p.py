"""A rule of its own: one file, and one line in a config."""

import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.decoding import engine, grammar, sampling
from cm3leon_jax.decoding.prompts import Request
from cm3leon_jax.decoding.rules import min_p
from cm3leon_jax.decoding.sampling import Sampling


def test_ids_below_a_tenth_of_the_most_probable_are_never_drawn():
    probs_BV = np.array([[0.5, 0.3, 0.15, 0.04, 0.01], [0.96, 0.01, 0.01, 0.01, 0.01]])
    kept_BV = np.isfinite(min_p.steer(jnp.log(probs_BV)))
    np.testing.assert_array_equal(kept_BV.sum(axis=1), [3, 1])


def test_the_rule_comes_after_the_temperature_and_what_is_allowed():
    logits_SBV = jnp.log(jnp.array([[[0.5, 0.4, 0.1 / 3, 0.1 / 3, 0.1 / 3]]]))
    allowed_BV = jnp.array([[False, True, True, True, True]])
    for temperature, count in ((1.0, 1), (4.0, 4)):
        settings = sampling.table([Sampling(temperature=temperature, rule="min_p")])
        steered_BV = sampling.steer(
            logits_SBV, allowed_BV, settings, False, False, "min_p"
        )
        assert np.isfinite(steered_BV).sum() == count


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"rule='typical' is unknown.*\['min_p'\]"):
        Sampling(rule="typical")


def test_the_engine_draws_by_the_rule_beside_requests_without_it(model, vocab):
    shapes = engine.Shapes(
        rows=(8,), prompt_lengths=(32,), steps=(24,), num_pieces=(12,)
    )
    prompt = np.array([vocab.EOS, 5, vocab.break_id], np.int32)
    asked = [
        Request((prompt,), (grammar.picture(vocab),), seed, Sampling(rule=rule))
        for rule in ("", "min_p")
        for seed in range(8)
    ]
    answers = engine.generate(model, asked, vocab, shapes)
    plain = engine.generate(model, asked[:8], vocab, shapes)
    for got, expected in zip(answers, plain, strict=False):
        np.testing.assert_array_equal(got, expected)
    shares = [_least_share(model, vocab, prompt, answer) for answer in answers]
    assert min(shares[:8]) < min_p.SHARE <= min(shares[8:]) * (1 + 1e-4)


def _least_share(model, vocab, prompt, answer):
    """The least probability of an id that was drawn, over its step's largest."""
    ids_BL = np.concatenate([prompt, answer])[None].astype(np.int32)
    positions_BL = jnp.arange(ids_BL.shape[1])[None]
    x_BLD = model(ids_BL, positions_BL, jnp.ones_like(ids_BL))
    logits_LV = np.asarray(model.head(x_BLD))[0, len(prompt) - 1 : -1]
    logits_LV = logits_LV[:, vocab.image_start : vocab.control_start]
    drawn_L = logits_LV[np.arange(len(answer)), answer - vocab.image_start]
    return np.exp(drawn_L - logits_LV.max(axis=1)).min()
