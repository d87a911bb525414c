"""The engine: continues any sequence of text and image ids, many rows at once.

One compiled function runs the prompts (prefill) and then a loop of single steps over a
static key-value cache: the model, guidance, grammar and drawing are all inside. The
prompts of a request's streams lie side by side in one batch, padded on the left.

    prompt ids     [. . </s> a b <break>]       the last one is fed by the first step
    step t         feed one id -> features -> head -> guidance -> grammar -> new id

What varies from call to call (prompts, plans, seeds, scales) is data. What is compiled
anew: the padded shape (`Shapes`), how many streams there are, and whether ids are
filtered. Inside an image only the image rows of the head are computed, inside a text
only the others; a step at which no row asks for a modality skips it.

A row's noise comes from its own seed and step, and no computation mixes rows, so a
request's answer is the same whatever else is in a batch of the same padded shape.

Letters: S streams of a request, T new ids, N pieces of a plan; else as everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.decoding import grammar, logits, sampling
from cm3leon_jax.decoding.prompts import Request
from cm3leon_jax.models import transformer
from cm3leon_jax.vocab import Vocab

_SEED_BITS = 32  # of a request's seed that reach the key


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The padded shapes that may be compiled; the smallest that holds is taken.

    Attributes:
      rows: Requests a batch, ascending; more requests make more batches.
      prompt_lengths: Ids of the longest prompt of a batch, ascending.
      steps: New ids, ascending.
      num_pieces: Pieces of a plan, ascending.
    """

    rows: tuple[int, ...] = (1, 4, 16, 64)
    prompt_lengths: tuple[int, ...] = tuple(2**i for i in range(5, 14))
    steps: tuple[int, ...] = tuple(2**i for i in range(4, 14))
    num_pieces: tuple[int, ...] = tuple(2**i for i in range(3, 14))


DEFAULT_SHAPES = Shapes()


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a batch of requests must share, and is compiled for."""

    num_streams: int
    is_contrast: bool
    is_filtered: bool
    prompt_length: int
    num_steps: int
    num_pieces: int


def generate(
    model: transformer.Transformer,
    requests: Sequence[Request],
    vocab: Vocab,
    shapes: Shapes = DEFAULT_SHAPES,
    report: Callable[[int], None] = lambda rows: None,
) -> list[np.ndarray]:
    """Returns the new ids of every request, each following its plan to the end.

    Args:
      model: Unstacked (`transformer.unstack`), so that no step slices the stack.
      requests: Any mixture; those of one shape share batches.
      vocab: The joint vocabulary.
      shapes: Padded shapes.
      report: Called with the number of requests finished, batch by batch.

    Returns:
      int32[n] a request, in their order.

    Raises:
      ValueError: If a request does not fit the model's positions or the shapes.
    """
    answers: list[np.ndarray] = [np.zeros(0, np.int32)] * len(requests)
    groups: dict[_Kind, list[int]] = {}
    for index, request in enumerate(requests):
        kind = _kind(request, vocab, shapes, model.config.max_length)
        groups.setdefault(kind, []).append(index)
    for kind, members in groups.items():
        for batch in batches(members, shapes.rows[-1]):
            rows = smallest(len(batch), shapes.rows, "requests a batch")
            inputs = _inputs([requests[index] for index in batch], kind, rows)
            ids_BT, written_B = _decode(model, *inputs, kind=kind, vocab=vocab)
            ids_BT, written_B = np.asarray(ids_BT), np.asarray(written_B)
            for row, index in enumerate(batch):
                answers[index] = ids_BT[row, : written_B[row]]
            report(len(batch))
    return answers


def check(request: Request, vocab: Vocab, shapes: Shapes, max_length: int) -> None:
    """Refuses a request that `generate` would refuse (ValueError)."""
    _kind(request, vocab, shapes, max_length)


def _kind(request: Request, vocab: Vocab, shapes: Shapes, max_length: int) -> _Kind:
    grammar.check(request.plan, vocab)
    longest = max(len(stream) for stream in request.streams)
    num_steps = grammar.steps(request.plan)
    check_positions(longest + num_steps, max_length)
    return _Kind(
        num_streams=len(request.streams),
        is_contrast=request.sampling.contrast_k > 0,
        is_filtered=request.sampling.is_filtered,
        prompt_length=smallest(longest, shapes.prompt_lengths, "prompt ids"),
        num_steps=smallest(num_steps, shapes.steps, "new ids"),
        num_pieces=smallest(len(request.plan), shapes.num_pieces, "plan pieces"),
    )


def check_positions(needed: int, max_length: int) -> None:
    """Refuses a sequence that the model has no positions for (ValueError)."""
    if needed > max_length:
        raise ValueError(
            f"prompt and answer need {needed} ids, the model has {max_length}"
            " positions; shorten the prompt, or retrieve fewer documents"
        )


def smallest(needed: int, sizes: tuple[int, ...], what: str) -> int:
    """Returns the smallest padded size that holds `needed`; ValueError if none."""
    for size in sizes:
        if size >= needed:
            return size
    raise ValueError(f"{needed} {what} do not fit the padded sizes {sizes}; add one")


def batches(members: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yields the members in runs of at most `size`."""
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _inputs(requests: Sequence[Request], kind: _Kind, rows: int) -> tuple[Any, ...]:
    """The arrays of a batch; rows without a request have an empty plan."""
    prompts_SBL = np.full((kind.num_streams, rows, kind.prompt_length), Vocab.PAD)
    prompts_SBL = prompts_SBL.astype(np.int32)
    lengths_SB = np.ones((kind.num_streams, rows), np.int32)
    for row, request in enumerate(requests):
        for stream, ids in enumerate(request.streams):
            prompts_SBL[stream, row, kind.prompt_length - len(ids) :] = ids
            lengths_SB[stream, row] = len(ids)
    plans = [request.plan for request in requests]
    plans += [()] * (rows - len(requests))
    samplings = [request.sampling for request in requests]
    settings = sampling.table(samplings + samplings[:1] * (rows - len(requests)))
    seeds_B = np.zeros(rows, np.uint32)
    for row, request in enumerate(requests):
        seeds_B[row] = request.seed % 2**_SEED_BITS
    pieces = grammar.table(plans, kind.num_pieces)
    return prompts_SBL, lengths_SB, pieces, seeds_B, settings


class _Carry(NamedTuple):
    """The state of the loop."""

    step: jax.Array
    fed_SB: jax.Array  # ids whose features come next
    cache: transformer.KVCache
    place: grammar.Place
    ids_BT: jax.Array
    written_B: jax.Array


@functools.partial(jax.jit, static_argnames=("kind", "vocab"))
def _decode(
    model: transformer.Transformer,
    prompts_SBL: jax.Array,
    lengths_SB: jax.Array,
    plans: grammar.Table,
    seeds_B: jax.Array,
    settings: sampling.Table,
    *,
    kind: _Kind,
    vocab: Vocab,
) -> tuple[jax.Array, jax.Array]:
    """Prefill and the loop: new ids int32[B, T] and how many each row wrote."""
    rows = seeds_B.shape[0]
    start = _prefill(model, prompts_SBL, lengths_SB, kind, rows)
    keys_B = jax.vmap(jax.random.key)(seeds_B)

    def is_going(carry: _Carry) -> jax.Array:
        """Whether any row has something left to write."""
        return (carry.step < kind.num_steps) & jnp.any(
            carry.place.piece_B < plans.num_B
        )

    def advance(carry: _Carry) -> _Carry:
        """Feeds one id of every stream and chooses the next of every row."""
        positions_R1 = (lengths_SB - 1 + carry.step).reshape(-1, 1)
        x_R1D, cache = model.extend(
            carry.fed_SB.reshape(-1, 1), positions_R1, carry.cache
        )
        x_SBD = x_R1D.reshape(kind.num_streams, rows, -1)
        now = grammar.rule(plans, carry.place, vocab)
        keys_now_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, carry.step)
        ids_B = _choose(model, x_SBD, now, keys_now_B, settings, kind, vocab)
        return _Carry(
            step=carry.step + 1,
            fed_SB=jnp.broadcast_to(ids_B[None], lengths_SB.shape),
            cache=cache,
            place=grammar.advance(plans, carry.place, ids_B),
            ids_BT=carry.ids_BT.at[:, carry.step].set(ids_B),
            written_B=carry.written_B + ~now.is_done_B,
        )

    final = jax.lax.while_loop(is_going, advance, start)
    return final.ids_BT, final.written_B


def _prefill(
    model: transformer.Transformer,
    prompts_SBL: jax.Array,
    lengths_SB: jax.Array,
    kind: _Kind,
    rows: int,
) -> _Carry:
    """Runs all prompt ids but the last, which the first step feeds."""
    flat_RL = prompts_SBL.reshape(-1, kind.prompt_length)
    padding_R1 = kind.prompt_length - lengths_SB.reshape(-1, 1)
    positions_RL = jnp.arange(kind.prompt_length)[None] - padding_R1
    cache = model.init_cache(flat_RL.shape[0], kind.prompt_length - 1 + kind.num_steps)
    _, cache = model.extend(
        flat_RL[:, :-1],
        jnp.maximum(positions_RL, 0)[:, :-1],
        cache,
        (positions_RL >= 0)[:, :-1],
    )
    zeros_B = jnp.zeros(rows, jnp.int32)
    return _Carry(
        step=jnp.int32(0),
        fed_SB=prompts_SBL[:, :, -1],
        cache=cache,
        place=grammar.Place(zeros_B, zeros_B),
        ids_BT=jnp.full((rows, kind.num_steps), Vocab.PAD, jnp.int32),
        written_B=zeros_B,
    )


def _choose(
    model: transformer.Transformer,
    x_SBD: jax.Array,
    now: grammar.Rule,
    keys_B: jax.Array,
    settings: sampling.Table,
    kind: _Kind,
    vocab: Vocab,
) -> jax.Array:
    """The next id of each row, int32[B].

    Each modality is computed by itself, from its own noise, so that what one row is
    given does not depend on which modality another row is in.
    """

    def draw(spans: tuple[tuple[int, int], ...], is_asked_B: jax.Array) -> jax.Array:
        """One modality's ids: drawn where they are asked for, any others elsewhere."""
        logits_SBV = jnp.concatenate(
            [model.head(x_SBD, start, size) for start, size in spans], axis=-1
        )
        ids_V = jnp.concatenate([start + jnp.arange(size) for start, size in spans])
        # Rows that are not asked keep every id: their logits stay finite.
        allowed_BV = grammar.allowed(now, ids_V) | ~is_asked_B[:, None]
        steered_BV = sampling.steer(
            logits_SBV, allowed_BV, settings, kind.is_contrast, kind.is_filtered
        )
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, ids_V.shape))(keys_B)
        is_greedy_B = settings.temperature_B == 0
        return ids_V[logits.draw(steered_BV, noise_BV, is_greedy_B)].astype(jnp.int32)

    text_spans = ((0, vocab.text_size), (vocab.control_start, vocab.control_size))
    image_spans = ((vocab.image_start, vocab.image_size),)
    ids_B = jnp.where(now.is_done_B, Vocab.PAD, now.start_B)
    for spans, is_asked_B in (
        (image_spans, now.is_image_B),
        (text_spans, now.is_text_B),
    ):
        drawn_B = jax.lax.cond(
            jnp.any(is_asked_B),
            functools.partial(draw, spans),
            lambda is_asked_B: jnp.zeros(is_asked_B.shape, jnp.int32),
            is_asked_B,
        )
        ids_B = jnp.where(is_asked_B, drawn_B, ids_B)
    return ids_B
