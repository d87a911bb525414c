"""Which ids may come next: a plan of pieces, followed row by row.

A plan says what a request asks for, as data: a row of pieces, each a range of ids, how
many of them, and the id that ends the piece early.

    draw a picture     [image x P]
    caption, answer    [text, at most n, until end of infill]
    fill two gaps      [image x 3] [end of infill] [<sentinel:1>] [image x 3]

A piece without a stop is exactly as long as it says. A piece with one holds at least
one id and at most `count`, then the stop comes, so whatever the weights, a row ends
well formed. Pieces of a single id are forced: the model is not asked.

The same plans drive the compiled loop (`Table`, arrays that any plan fits) and check
what it wrote (`split`).

Letters: B rows, N pieces of a plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.vocab import Vocab

NO_STOP = -1
FIRST_TEXT_ID = 4  # <s>, <pad>, </s> and <unk> are never written inside a text


@dataclasses.dataclass(frozen=True)
class Piece:
    """Ids of one range: exactly `count`, or at most `count` and then `stop`.

    Attributes:
      start: First id of the range.
      size: Number of ids in the range.
      count: How many ids.
      stop: The id that ends the piece, or NO_STOP.
    """

    start: int
    size: int
    count: int
    stop: int = NO_STOP

    @property
    def steps(self) -> int:
        """The most ids that the piece takes, its stop included."""
        return self.count + (self.stop != NO_STOP)

    @property
    def is_forced(self) -> bool:
        """True if only one id sequence is possible."""
        return self.size == 1 and self.stop == NO_STOP

    def is_text(self, vocab: Vocab) -> bool:
        """True if it holds text, and ends by a stop."""
        return self.stop != NO_STOP and bool(vocab.is_text(self.start))


Plan = tuple[Piece, ...]


def codes(count: int, vocab: Vocab) -> Piece:
    """Exactly `count` image codes."""
    return Piece(vocab.image_start, vocab.image_size, count)


def picture(vocab: Vocab) -> Piece:
    """Exactly one picture."""
    return codes(vocab.codes_per_image, vocab)


def mark(token_id: int) -> Piece:
    """One given id: `<break>`, a sentinel, an end of infill."""
    return Piece(token_id, 1, 1)


def text(count: int, num_pieces: int, stop: int) -> Piece:
    """At most `count` text ids and then `stop`.

    Args:
      count: The most text ids, at least 1.
      num_pieces: Size of the text tokenizer; ids that it cannot decode are not written.
      stop: `vocab.end_of_infill_id`, `<break>`, or `</s>`.
    """
    return Piece(FIRST_TEXT_ID, num_pieces - FIRST_TEXT_ID, count, stop)


def check(plan: Plan, vocab: Vocab) -> None:
    """Refuses a plan that the engine cannot follow.

    Raises:
      ValueError: If a piece is empty, leaves its modality, or its stop lies within
        its own range.
    """
    for piece in plan:
        last = piece.start + piece.size - 1
        is_image = bool(vocab.is_image(piece.start))
        if piece.size < 1 or piece.count < 1:
            raise ValueError(f"{piece} is empty; leave it out of the plan")
        if is_image and (not vocab.is_image(last) or piece.stop != NO_STOP):
            raise ValueError(f"{piece} must be image codes alone, in a fixed number")
        if not is_image and piece.size > 1 and not vocab.is_text(last):
            raise ValueError(f"{piece} leaves the text ids; use pieces of one modality")
        if piece.start <= piece.stop <= last:
            raise ValueError(f"{piece} contains its own stop; choose a control id")
        if piece.stop != NO_STOP and vocab.is_image(piece.stop):
            raise ValueError(f"{piece} stops at an image code; choose a control id")


def steps(plan: Plan) -> int:
    """The most ids that a plan takes."""
    return sum(piece.steps for piece in plan)


def split(plan: Plan, ids: np.ndarray) -> list[np.ndarray]:
    """Cuts ids into the pieces of the plan that they follow, stops left out.

    Args:
      plan: What was asked for.
      ids: int[n], a whole answer.

    Returns:
      One int32 array a piece.

    Raises:
      ValueError: If the ids do not follow the plan to its end.
    """
    ids = np.asarray(ids, np.int32)
    parts, at = [], 0
    for number, piece in enumerate(plan):
        end = at + piece.count
        if piece.stop != NO_STOP:
            found = np.flatnonzero(ids[at : end + 1] == piece.stop)
            if not len(found) or found[0] == 0:
                raise ValueError(f"piece {number} {piece} has no stop: {ids[at:]}")
            end = at + int(found[0])
        part = ids[at:end]
        inside = (part >= piece.start) & (part < piece.start + piece.size)
        if end > len(ids) or not inside.all():
            raise ValueError(f"piece {number} {piece} got {part}")
        parts.append(part)
        at = end + (piece.stop != NO_STOP)
    if at != len(ids):
        raise ValueError(f"{len(ids) - at} ids stand after the end of {plan}")
    return parts


class Table(NamedTuple):
    """The plans of a batch as arrays: int32[B, N], and the pieces in use int32[B].

    NumPy's on the host, JAX's in the loop.
    """

    start_BN: Any
    size_BN: Any
    count_BN: Any
    stop_BN: Any
    num_B: Any


class Place(NamedTuple):
    """Where each row is in its plan: piece and ids written in it, int32[B]."""

    piece_B: jax.Array
    used_B: jax.Array


def table(plans: Sequence[Plan], num_pieces: int) -> Table:
    """Lays plans out as arrays of `num_pieces` columns (a shape for any batch)."""
    fields = np.zeros((4, len(plans), num_pieces), np.int32)
    for row, plan in enumerate(plans):
        for column, piece in enumerate(plan):
            fields[:, row, column] = dataclasses.astuple(piece)
    start_BN, size_BN, count_BN, stop_BN = fields
    num_B = np.array([len(plan) for plan in plans], np.int32)
    return Table(start_BN, size_BN, count_BN, stop_BN, num_B)


class Rule(NamedTuple):
    """What each row may write now, all of length B.

    `is_image_B` and `is_text_B` are the rows that the model is asked for; the others
    are forced (`start_B` is their id) or done.
    """

    start_B: jax.Array
    end_B: jax.Array
    stop_B: jax.Array
    may_go_on_B: jax.Array
    may_stop_B: jax.Array
    is_done_B: jax.Array
    is_image_B: jax.Array
    is_text_B: jax.Array


def rule(plans: Table, place: Place, vocab: Vocab) -> Rule:
    """Returns what each row may write at its place."""
    last = plans.start_BN.shape[1] - 1
    column_B1 = jnp.minimum(place.piece_B, last)[:, None]
    start_B, size_B, count_B, stop_B = (
        jnp.take_along_axis(field, column_B1, axis=1)[:, 0] for field in plans[:4]
    )
    is_done_B = place.piece_B >= plans.num_B
    is_forced_B = (size_B == 1) & (stop_B == NO_STOP)
    is_asked_B = ~is_done_B & ~is_forced_B
    is_image_B = vocab.is_image(start_B)
    return Rule(
        start_B=start_B,
        end_B=start_B + size_B,
        stop_B=stop_B,
        may_go_on_B=place.used_B < count_B,
        may_stop_B=(stop_B != NO_STOP) & (place.used_B > 0),
        is_done_B=is_done_B,
        is_image_B=is_asked_B & is_image_B,
        is_text_B=is_asked_B & ~is_image_B,
    )


def allowed(now: Rule, ids_V: jax.Array) -> jax.Array:
    """Returns bool[B, V]: which of these ids each row may write."""
    ids_1V = ids_V[None, :]
    in_range_BV = (ids_1V >= now.start_B[:, None]) & (ids_1V < now.end_B[:, None])
    is_stop_BV = ids_1V == now.stop_B[:, None]
    return (in_range_BV & now.may_go_on_B[:, None]) | (
        is_stop_BV & now.may_stop_B[:, None]
    )


def advance(plans: Table, place: Place, ids_B: jax.Array) -> Place:
    """Returns the place of each row after it wrote these ids; done rows stay."""
    last = plans.start_BN.shape[1] - 1
    column_B1 = jnp.minimum(place.piece_B, last)[:, None]
    count_B, stop_B = (
        jnp.take_along_axis(field, column_B1, axis=1)[:, 0]
        for field in (plans.count_BN, plans.stop_BN)
    )
    is_done_B = place.piece_B >= plans.num_B
    is_full_B = (stop_B == NO_STOP) & (place.used_B + 1 >= count_B)
    is_over_B = ((ids_B == stop_B) | is_full_B) & ~is_done_B
    return Place(
        place.piece_B + is_over_B,
        jnp.where(is_over_B, 0, place.used_B + 1),
    )
