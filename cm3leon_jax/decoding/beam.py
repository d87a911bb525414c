"""Beam search for text: the likeliest sentence that a few open ones lead to.

Each request keeps N open beginnings. At every step the N best continuations by one id
stay open, and every beginning that may stop is also a finished text, of the score

    log p(ids, stop) / (number of ids with the stop) ** length_penalty

The best finished text is the answer. Probabilities are over the ids that the grammar
allows, as in drawing at temperature 1; text that the model could not write at the
prompt's place has none.

A prompt is run once for its N beginnings, whose caches are reordered at every step.

Letters: B requests, N beginnings, T new ids, V ids that a text may hold.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.decoding import engine, grammar, loop
from cm3leon_jax.decoding.prompts import Request
from cm3leon_jax.models import attention, transformer
from cm3leon_jax.vocab import Vocab

MAX_BEAMS = 64


@dataclasses.dataclass(frozen=True)
class Beams:
    """How wide the search is, and how long its texts.

    Attributes:
      num_beams: Beginnings that are kept open, at least 2; 1 is greedy.
      length_penalty: 0 compares sums of log-probabilities, which favours short texts;
        1 compares their means.

    Raises:
      ValueError: If a value is out of range.
    """

    num_beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self):
        if not 1 <= self.num_beams <= MAX_BEAMS:
            raise ValueError(f"num_beams={self.num_beams} must be in 1 to {MAX_BEAMS}")
        if not 0 <= self.length_penalty <= 4:
            raise ValueError(
                f"length_penalty={self.length_penalty} must be in [0, 4]; 1 is the mean"
            )


class _Search(NamedTuple):
    """The state of the search; a beginning that is not there scores -inf."""

    step: jax.Array
    cache: attention.KVCache
    fed_BN: jax.Array
    scores_BN: jax.Array
    ids_BNT: jax.Array
    best_B: jax.Array  # score of the best finished text
    best_BT: jax.Array
    lengths_B: jax.Array


def search(
    model: transformer.Transformer,
    requests: Sequence[Request],
    vocab: Vocab,
    beams: Beams,
    shapes: engine.Shapes = engine.DEFAULT_SHAPES,
) -> list[np.ndarray]:
    """Returns the new ids of every request, its stop included, as `generate` does.

    Args:
      model: Unstacked.
      requests: Of one stream and one piece of text each; seed and sampling are unused.
      vocab: The joint vocabulary.
      beams: How wide to search.
      shapes: Padded shapes; `rows` counts requests.

    Raises:
      ValueError: If a request asks for more than one text, or does not fit.
    """
    answers: list[np.ndarray] = [np.zeros(0, np.int32)] * len(requests)
    groups: dict[tuple[int, int, grammar.Piece], list[int]] = {}
    for index, request in enumerate(requests):
        kind = engine.check(request, vocab, shapes, model.config.max_length)
        piece = request.plan[0]
        if (
            len(request.plan) > 1
            or len(request.streams) > 1
            or not piece.is_text(vocab)
        ):
            raise ValueError(
                "beam search writes one text after one prompt; set num_beams=1 for"
                f" pictures, guidance and several pieces, got {request.plan}"
            )
        key = (kind.prompt_length, kind.num_steps, piece)
        groups.setdefault(key, []).append(index)
    for (length, _, piece), members in groups.items():
        for batch in engine.batches(members, shapes.rows[-1]):
            rows = engine.smallest(len(batch), shapes.rows, "requests a batch")
            prompts_BL = np.full((rows, length), Vocab.PAD, np.int32)
            lengths_B = np.ones(rows, np.int32)
            for row, index in enumerate(batch):
                ids = requests[index].streams[0]
                prompts_BL[row, length - len(ids) :] = ids
                lengths_B[row] = len(ids)
            found = _search(model, prompts_BL, lengths_B, piece=piece, beams=beams)
            best_BT, ends_B = np.asarray(found.best_BT), np.asarray(found.lengths_B)
            for row, index in enumerate(batch):
                answers[index] = best_BT[row, : ends_B[row]]
    return answers


@functools.partial(jax.jit, static_argnames=("piece", "beams"))
def _search(
    model: transformer.Transformer,
    prompts_BL: jax.Array,
    lengths_B: jax.Array,
    *,
    piece: grammar.Piece,
    beams: Beams,
) -> _Search:
    rows, length = prompts_BL.shape
    num, last = beams.num_beams, piece.count  # the stop is id number `count`, at most
    slots = length - 1 + piece.steps
    prompt = loop.prefill(model, prompts_BL, lengths_B, slots)
    row_R = jnp.repeat(jnp.arange(rows), num)
    # At first all beginnings of a request are the same: one of them counts.
    scores_N = jnp.where(jnp.arange(num) == 0, 0.0, -jnp.inf)
    start = _Search(
        step=jnp.int32(0),
        cache=_take(prompt, row_R),
        fed_BN=jnp.repeat(prompts_BL[:, -1:], num, axis=1),
        scores_BN=jnp.repeat(scores_N[None], rows, axis=0),
        ids_BNT=jnp.full((rows, num, piece.steps), Vocab.PAD, jnp.int32),
        best_B=jnp.full(rows, -jnp.inf),
        best_BT=jnp.full((rows, piece.steps), Vocab.PAD, jnp.int32),
        lengths_B=jnp.zeros(rows, jnp.int32),
    )

    def is_going(now: _Search) -> jax.Array:
        """Whether an open beginning can still end better than the best that ended."""
        # A sum of log-probabilities only falls.
        hope_B = now.scores_BN.max(axis=1) / piece.steps**beams.length_penalty
        return (now.step <= last) & jnp.any(now.best_B < hope_B)

    def advance(now: _Search) -> _Search:
        """Ends the beginnings that end best here, and keeps the best that go on."""
        positions_R1 = (lengths_B[row_R] - 1 + now.step)[:, None]
        x_R1D, cache = model.extend(now.fed_BN.reshape(-1, 1), positions_R1, now.cache)
        go_on_BNV, stop_BN = _log_probs(model, x_R1D, piece, now.step)
        go_on_BNV = go_on_BNV.reshape(rows, num, -1) + now.scores_BN[..., None]
        now = _finish(now, stop_BN.reshape(rows, num), piece, beams)
        scores_BN, flat_BN = jax.lax.top_k(go_on_BNV.reshape(rows, -1), num)
        parent_BN, id_BN = jnp.divmod(flat_BN, piece.size)
        fed_BN = (id_BN + piece.start).astype(jnp.int32)
        ids_BNT = jnp.take_along_axis(now.ids_BNT, parent_BN[..., None], axis=1)
        parent_R = (parent_BN + num * jnp.arange(rows)[:, None]).reshape(-1)
        return now._replace(
            step=now.step + 1,
            cache=_take(cache, parent_R),
            fed_BN=fed_BN,
            scores_BN=scores_BN,
            ids_BNT=ids_BNT.at[:, :, now.step].set(fed_BN),
        )

    return jax.lax.while_loop(is_going, advance, start)


def _log_probs(
    model: transformer.Transformer,
    x_R1D: jax.Array,
    piece: grammar.Piece,
    step: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Of going on with each id float32[R, V], and of the stop float32[R]."""
    logits_RV = model.head(x_R1D, piece.start, piece.size)[:, 0]
    stop_R1 = model.head(x_R1D, piece.stop, 1)[:, 0]
    logits_RV = jnp.where(step < piece.count, logits_RV, -jnp.inf)
    stop_R1 = jnp.where(step > 0, stop_R1, -jnp.inf)
    both = jax.nn.log_softmax(jnp.concatenate([logits_RV, stop_R1], axis=1), axis=1)
    return both[:, :-1], both[:, -1]


def _finish(
    now: _Search, stop_BN: jax.Array, piece: grammar.Piece, beams: Beams
) -> _Search:
    """Keeps the best text that ends here, if it is better than those before."""
    ended_BN = (now.scores_BN + stop_BN) / (now.step + 1.0) ** beams.length_penalty
    which_B = ended_BN.argmax(axis=1)
    score_B = ended_BN.max(axis=1)
    ids_BT = jnp.take_along_axis(now.ids_BNT, which_B[:, None, None], axis=1)[:, 0]
    ids_BT = ids_BT.at[:, now.step].set(piece.stop)
    is_better_B = score_B > now.best_B
    return now._replace(
        best_B=jnp.where(is_better_B, score_B, now.best_B),
        best_BT=jnp.where(is_better_B[:, None], ids_BT, now.best_BT),
        lengths_B=jnp.where(is_better_B, now.step + 1, now.lengths_B),
    )


def _take(cache: attention.KVCache, rows_R: jax.Array) -> attention.KVCache:
    """The cache with row r a copy of row `rows_R[r]`."""
    return cache._replace(
        k_BHMK=jax.tree.map(lambda x: x[rows_R], cache.k_BHMK),
        v_BHMK=jax.tree.map(lambda x: x[rows_R], cache.v_BHMK),
        valid_BM=cache.valid_BM[rows_R],
    )
