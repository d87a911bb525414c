"""Beam search: wide enough it finds the best text that there is."""

import itertools

import jax
import numpy as np
import pytest

from cm3leon_jax.decoding import beam, engine, grammar, prompts
from cm3leon_jax.decoding.beam import Beams
from cm3leon_jax.decoding.prompts import Request
from cm3leon_jax.decoding.sampling import Sampling

SHAPES = engine.Shapes(rows=(2,), prompt_lengths=(16,), steps=(8,), num_pieces=(8,))
NUM_PIECES = 9  # 5 text ids, so that every text can be tried

_forward = jax.jit(lambda model, *rows: model.head(model(*rows)))


def _request(vocab, seed, count):
    rng = np.random.default_rng(seed)
    prompt = np.concatenate([[vocab.EOS], rng.integers(4, vocab.size, 6 + seed)])
    plan = prompts.text_plan(count, NUM_PIECES, vocab)
    return Request((prompt.astype(np.int32),), plan)


def _every_text(model, request, vocab, length_penalty):
    """Scores of all texts, by the full forward pass over all of them."""
    piece, prompt = request.plan[0], request.streams[0]
    letters = range(piece.start, piece.start + piece.size)
    texts = [
        (*text, piece.stop)
        for count in range(1, piece.count + 1)
        for text in itertools.product(letters, repeat=count)
    ]
    tokens = np.full((len(texts), len(prompt) + piece.steps), vocab.PAD, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(prompt) + len(text)] = [*prompt, *text]
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    logits = np.asarray(_forward(model, tokens, positions, np.ones_like(tokens)))
    scores = {}
    for row, text in enumerate(texts):
        total = 0.0
        for step, chosen in enumerate(text):
            allowed = [*letters] * (step < piece.count) + [piece.stop] * (step > 0)
            now = logits[row, len(prompt) - 1 + step].astype(np.float64)
            total += now[chosen] - np.logaddexp.reduce(now[allowed])
        scores[text] = total / len(text) ** length_penalty
    return scores


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_texts_finds_the_best(model, vocab, length_penalty):
    requests = [_request(vocab, seed, 3) for seed in range(2)]
    found = beam.search(model, requests, vocab, Beams(30, length_penalty), SHAPES)
    for request, ids in zip(requests, found, strict=True):
        scores = _every_text(model, request, vocab, length_penalty)
        assert scores[tuple(ids.tolist())] == pytest.approx(max(scores.values()))


def test_one_beam_follows_the_likeliest_id_as_greedy_does(model, vocab):
    requests = [_request(vocab, seed, 7) for seed in range(2, 6)]
    greedy = [
        Request(each.streams, each.plan, sampling=Sampling(temperature=0.0))
        for each in requests
    ]
    drawn = engine.generate(model, greedy, vocab, SHAPES)
    searched = beam.search(model, requests, vocab, Beams(1), SHAPES)
    for one, other in zip(drawn, searched, strict=True):
        # The search may stop where greedy goes on, if the shorter text scores better.
        ids = other[:-1]
        np.testing.assert_array_equal(ids, one[: len(ids)])


def test_what_is_no_text_is_refused(model, vocab):
    prompt = _request(vocab, 0, 3).streams[0]
    with pytest.raises(ValueError, match="one text after one prompt"):
        beam.search(
            model,
            [Request((prompt,), (grammar.codes(3, vocab),))],
            vocab,
            Beams(2),
            SHAPES,
        )
    with pytest.raises(ValueError, match="num_beams=0"):
        Beams(0)
