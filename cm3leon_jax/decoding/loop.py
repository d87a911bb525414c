"""The compiled part of the engine: prefill, and a loop of single steps over a cache.

The model, guidance, grammar and drawing are all inside. The prompts of a request's
streams lie side by side in one batch, padded on the left.

    prompt ids     [. . </s> a b <break>]       the last one is fed by the first step
    step t         feed one id -> features -> head -> guidance -> grammar -> new id

`decode` runs to the end in one call; `begin` and `go_on` do the same in several, so that
what is written can be seen while it is. Inside an image only the image rows of the head
are computed, inside a text only the others; a step at which no row asks for a modality
skips it.

Letters: S streams of a request, T new ids, R = S x B rows of the model, U different
prompts among them; else as everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cm3leon_jax.decoding import grammar, logits, sampling
from cm3leon_jax.models import attention, transformer
from cm3leon_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a batch of requests must share, and is compiled for.

    Attributes:
      num_streams: Prompts a request.
      is_contrast: Whether two streams are contrasted instead of guided.
      is_filtered: Whether some ids are kept from being drawn.
      rule: That changes the logits of all of them, see `Sampling`.
      prompt_length: Ids of the padded prompts.
      num_steps: The most new ids.
      num_pieces: Pieces of the padded plans.
      num_prompts: Different prompts that are run, each for all rows that have it; 0 if
        every row runs its own.
    """

    num_streams: int
    is_contrast: bool
    is_filtered: bool
    rule: str
    prompt_length: int
    num_steps: int
    num_pieces: int
    num_prompts: int = 0


class Inputs(NamedTuple):
    """A batch of requests as arrays; rows without a request have an empty plan.

    Attributes:
      prompts_SBL: int32[S, B, L], padded on the left.
      lengths_SB: int32[S, B], ids of each prompt.
      plans: What follows.
      seeds_B: uint32[B].
      settings: How ids are drawn.
      first_U: int32[U], the first row (of S x B) of each different prompt.
      which_R: int32[S x B], the prompt of each row; both empty if `num_prompts` is 0.
    """

    prompts_SBL: Any
    lengths_SB: Any
    plans: grammar.Table
    seeds_B: Any
    settings: sampling.Table
    first_U: Any
    which_R: Any


class Carry(NamedTuple):
    """The state of the loop."""

    step: jax.Array
    fed_SB: jax.Array  # ids whose features come next
    cache: attention.KVCache
    place: grammar.Place
    ids_BT: jax.Array
    written_B: jax.Array


@functools.partial(jax.jit, static_argnames=("kind", "vocab"))
def decode(
    model: transformer.Transformer, inputs: Inputs, *, kind: Kind, vocab: Vocab
) -> tuple[jax.Array, jax.Array]:
    """Prefill and the loop: new ids int32[B, T] and how many each row wrote."""
    start = _prefill(model, inputs, kind)
    final = _loop(model, inputs, start, kind.num_steps, kind, vocab)
    return final.ids_BT, final.written_B


@functools.partial(jax.jit, static_argnames=("kind",))
def begin(model: transformer.Transformer, inputs: Inputs, *, kind: Kind) -> Carry:
    """Prefill alone: the state before the first step."""
    return _prefill(model, inputs, kind)


@functools.partial(
    jax.jit, static_argnames=("kind", "vocab"), donate_argnames=("carry",)
)
def go_on(
    model: transformer.Transformer,
    inputs: Inputs,
    carry: Carry,
    until: int,
    *,
    kind: Kind,
    vocab: Vocab,
) -> Carry:
    """The state at step `until`, or at the end if that comes first."""
    return _loop(model, inputs, carry, until, kind, vocab)


def _loop(
    model: transformer.Transformer,
    inputs: Inputs,
    start: Carry,
    until: int | jax.Array,
    kind: Kind,
    vocab: Vocab,
) -> Carry:
    plans, lengths_SB = inputs.plans, inputs.lengths_SB
    rows = inputs.seeds_B.shape[0]
    keys_B = jax.vmap(jax.random.key)(inputs.seeds_B)
    heads = _heads(model, vocab)

    def is_going(carry: Carry) -> jax.Array:
        """Whether any row has something left to write."""
        return (carry.step < until) & jnp.any(carry.place.piece_B < plans.num_B)

    def advance(carry: Carry) -> Carry:
        """Feeds one id of every stream and chooses the next of every row."""
        positions_R1 = (lengths_SB - 1 + carry.step).reshape(-1, 1)
        x_R1D, cache = model.extend(
            carry.fed_SB.reshape(-1, 1), positions_R1, carry.cache
        )
        x_SBD = x_R1D.reshape(kind.num_streams, rows, -1)
        now = grammar.rule(plans, carry.place, vocab)
        keys_now_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, carry.step)
        ids_B = _choose(heads, x_SBD, now, keys_now_B, inputs.settings, kind)
        return Carry(
            step=carry.step + 1,
            fed_SB=jnp.broadcast_to(ids_B[None], lengths_SB.shape),
            cache=cache,
            place=grammar.advance(plans, carry.place, ids_B),
            ids_BT=carry.ids_BT.at[:, carry.step].set(ids_B),
            written_B=carry.written_B + ~now.is_done_B,
        )

    return jax.lax.while_loop(is_going, advance, start)


def _prefill(model: transformer.Transformer, inputs: Inputs, kind: Kind) -> Carry:
    """Runs all prompt ids but the last, which the first step feeds."""
    flat_RL = inputs.prompts_SBL.reshape(-1, kind.prompt_length)
    lengths_R = inputs.lengths_SB.reshape(-1)
    if kind.num_prompts:
        flat_RL, lengths_R = flat_RL[inputs.first_U], lengths_R[inputs.first_U]
    slots = kind.prompt_length - 1
    if not kind.num_prompts:
        slots += kind.num_steps
    cache = prefill(model, flat_RL, lengths_R, slots)
    if kind.num_prompts:
        cache = _spread(cache, inputs.which_R, slots + kind.num_steps)
    rows = inputs.seeds_B.shape[0]
    zeros_B = jnp.zeros(rows, jnp.int32)
    return Carry(
        step=jnp.int32(0),
        fed_SB=inputs.prompts_SBL[:, :, -1],
        cache=cache,
        place=grammar.Place(zeros_B, zeros_B),
        ids_BT=jnp.full((rows, kind.num_steps), Vocab.PAD, jnp.int32),
        written_B=zeros_B,
    )


def prefill(
    model: transformer.Transformer,
    prompts_RL: jax.Array,
    lengths_R: jax.Array,
    slots: int,
) -> attention.KVCache:
    """Returns the cache of all prompt ids but the last.

    Args:
      model: Unstacked.
      prompts_RL: int32[R, L], padded on the left.
      lengths_R: int32[R], ids of each prompt.
      slots: Of the cache, at least L - 1.
    """
    length = prompts_RL.shape[1]
    padding_R1 = length - lengths_R[:, None]
    positions_RL = jnp.arange(length)[None] - padding_R1
    cache = model.init_cache(prompts_RL.shape[0], slots)
    _, cache = model.extend(
        prompts_RL[:, :-1],
        jnp.maximum(positions_RL, 0)[:, :-1],
        cache,
        (positions_RL >= 0)[:, :-1],
    )
    return cache


def _spread(
    cache: attention.KVCache, which_R: jax.Array, slots: int
) -> attention.KVCache:
    """Gives every row its prompt's part of the cache, and room for `slots` in all."""
    more = slots - cache.valid_BM.shape[1]
    longer = lambda x: jnp.pad(x[which_R], [(0, 0), (0, 0), (0, more), (0, 0)])
    return cache._replace(
        k_BHMK=jax.tree.map(longer, cache.k_BHMK),
        v_BHMK=jax.tree.map(longer, cache.v_BHMK),
        valid_BM=jnp.pad(cache.valid_BM[which_R], [(0, 0), (0, more)]),
    )


class _Head(NamedTuple):
    """The logits of one modality: of runs of ids, each with its start and size."""

    spans: tuple[tuple[int, int], ...]
    scorers: tuple[Callable[[jax.Array], jax.Array], ...]


def _heads(model: transformer.Transformer, vocab: Vocab) -> tuple[_Head, _Head]:
    """The heads of image and text."""

    def head(*spans: tuple[int, int]) -> _Head:
        return _Head(spans, tuple(model.scorer(*span) for span in spans))

    text = head((0, vocab.text_size), (vocab.control_start, vocab.control_size))
    return head((vocab.image_start, vocab.image_size)), text


def _choose(
    heads: tuple[_Head, _Head],
    x_SBD: jax.Array,
    now: grammar.Rule,
    keys_B: jax.Array,
    settings: sampling.Table,
    kind: Kind,
) -> jax.Array:
    """The next id of each row, int32[B].

    Each modality is computed by itself, from its own noise, so that what one row is
    given does not depend on which modality another row is in.
    """

    def draw(head: _Head, is_asked_B: jax.Array) -> jax.Array:
        """One modality's ids: drawn where they are asked for, any others elsewhere."""
        logits_SBV = jnp.concatenate(
            [scorer(x_SBD) for scorer in head.scorers], axis=-1
        )
        ids_V = jnp.concatenate([start + jnp.arange(n) for start, n in head.spans])
        # Rows that are not asked keep every id: their logits stay finite.
        allowed_BV = grammar.allowed(now, ids_V) | ~is_asked_B[:, None]
        steered_BV = sampling.steer(
            logits_SBV,
            allowed_BV,
            settings,
            kind.is_contrast,
            kind.is_filtered,
            kind.rule,
        )
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, ids_V.shape))(keys_B)
        is_greedy_B = settings.temperature_B == 0
        return ids_V[logits.draw(steered_BV, noise_BV, is_greedy_B)].astype(jnp.int32)

    ids_B = jnp.where(now.is_done_B, Vocab.PAD, now.start_B)
    for head, is_asked_B in zip(heads, (now.is_image_B, now.is_text_B), strict=True):
        drawn_B = jax.lax.cond(
            jnp.any(is_asked_B),
            functools.partial(draw, head),
            lambda is_asked_B: jnp.zeros(is_asked_B.shape, jnp.int32),
            is_asked_B,
        )
        ids_B = jnp.where(is_asked_B, drawn_B, ids_B)
    return ids_B
