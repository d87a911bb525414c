"""Laws of plans: what is allowed, when a row ends, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.decoding import grammar


def _write(plan, vocab, rng, num_pieces=8):
    """Follows a plan with ids drawn evenly from what the rule allows."""
    plans = grammar.table([plan], num_pieces)
    zero = jnp.zeros(1, jnp.int32)
    place, ids = grammar.Place(zero, zero), []
    every_V = jnp.arange(vocab.size)
    for _ in range(grammar.steps(plan) + 3):
        now = grammar.rule(plans, place, vocab)
        if now.is_done_B[0]:
            break
        allowed_V = np.asarray(grammar.allowed(now, every_V))[0]
        drawn = int(rng.choice(np.flatnonzero(allowed_V)))
        ids.append(drawn)
        place = grammar.advance(plans, place, jnp.array([drawn], jnp.int32))
    return np.array(ids, np.int32)


@pytest.mark.parametrize("seed", range(5))
def test_what_the_rule_allows_is_what_split_accepts(vocab, seed):
    plan = (
        grammar.text(3, 20, vocab.break_id),
        grammar.picture(vocab),
        grammar.mark(vocab.end_of_infill_id),
        grammar.text(2, 20, vocab.EOS),
    )
    ids = _write(plan, vocab, np.random.default_rng(seed))
    parts = grammar.split(plan, ids)
    assert [len(part) for part in parts[1:3]] == [9, 1]
    assert all(vocab.is_image(parts[1]))
    assert 1 <= len(parts[0]) <= 3
    assert ids[-1] == vocab.EOS


def test_split_refuses_what_does_not_follow_the_plan(vocab):
    plan = (grammar.codes(2, vocab), grammar.text(3, 20, vocab.EOS))
    image = vocab.image_start
    grammar.split(plan, [image, image, 5, vocab.EOS])
    for wrong in (
        [image, 5, 5, vocab.EOS],  # a text id in the picture
        [image, image, 5, 5],  # no stop
        [image, image, vocab.EOS],  # an empty text
        [image, image, 5, 5, 5, 5, vocab.EOS],  # too long
        [image, image, 5, vocab.EOS, 5],  # goes on after the end
    ):
        with pytest.raises(ValueError, match="piece|after the end"):
            grammar.split(plan, wrong)


def test_special_ids_are_never_allowed_inside_a_text(vocab):
    plans = grammar.table([(grammar.text(3, 20, vocab.EOS),)], 4)
    zero = jnp.zeros(1, jnp.int32)
    now = grammar.rule(plans, grammar.Place(zero, zero), vocab)
    allowed = np.flatnonzero(grammar.allowed(now, jnp.arange(vocab.size))[0])
    np.testing.assert_array_equal(allowed, np.arange(4, 20))


@pytest.mark.parametrize(
    "piece",
    [
        grammar.Piece(4, 10, 0),  # nothing
        grammar.Piece(30, 20, 3),  # image codes and beyond
        grammar.Piece(10, 20, 3),  # text and image codes
        grammar.Piece(4, 10, 3, stop=6),  # its own stop
        grammar.Piece(4, 10, 3, stop=30),  # an image code as stop
    ],
)
def test_plans_that_cannot_be_followed_are_refused(vocab, piece):
    with pytest.raises(ValueError, match="Piece"):
        grammar.check((piece,), vocab)
