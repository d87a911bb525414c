"""The causal-masked (CM3) rewrite: spans move to the end of their sequence.

A masked span leaves a sentinel in its place; behind the sequence the sentinel comes
again, then the span, then the end-of-infill mark. So a causal model learns to fill a
hole with both sides of it in view:

    ids    </s> a b c d <break> I1 I2 I3 I4 </s>          one span: b c
    moved  </s> a <s:0> d <break> I1 I2 I3 I4 </s> <s:0> b c <end>

`draw_spans` decides what is masked, `rewrite` moves it, `restore` undoes that.
`rewrite_row` keeps a row's length by leaving out its tail.

Source: CM3, arXiv:2201.07520, section 2; CM3Leon, arXiv:2309.02591, section 2.2; the
rules of drawing follow github.com/facebookresearch/metaseq, metaseq/data/cm3_dataset.py
(MIT). Differences: `</s>` delimits segments as `<break>` does (and marks of pictures,
where they have any), so that it is never masked (there, only `<break>` does); spans stay
out of the part of a row that is cut.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import numpy as np

from cm3leon_jax.documents import rules
from cm3leon_jax.vocab import Vocab

TOKENS_PER_SPAN = 3  # what a span adds: its sentinel twice and its end mark

_NONE_S2 = np.zeros((0, 2), np.int32)


@dataclasses.dataclass(frozen=True)
class CM3Config:
    """How spans are drawn. The cases are tried in the order of the fields `*_prob`.

    Attributes:
      target_mask_prob: Chance that exactly the targets are masked, where there are any:
        what a task asks for is trained the way it is asked for.
      rectangle_prob: Chance that a rectangle of codes of one picture is masked, one
        span a row of codes.
      rule: A file of `documents/rules/` that draws the spans in all cases but the two
        above; empty for those below.
      rotation_prob: Chance that whole segments are masked (a caption or a picture
        rotates to the end).
      span_rate: Mean of the Poisson number of spans in all other cases.
      min_spans: The number is raised to this. 0: a share of exp(-span_rate) of the
        sequences stays causal, as in the code that trained CM3Leon. 1: the CM3 paper.
      max_spans: The number is lowered to this.

    Raises:
      ValueError: If a probability or a number is out of range, or the rule is unknown.
    """

    target_mask_prob: float = 0.0
    rectangle_prob: float = 0.0
    rule: str = ""
    rotation_prob: float = 0.0
    span_rate: float = 1.0
    min_spans: int = 0
    max_spans: int = 16

    def __post_init__(self):
        for name in ("target_mask_prob", "rectangle_prob", "rotation_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"cm3.{name} must be in [0, 1], got {self}")
        if self.span_rate < 0 or not 0 <= self.min_spans <= self.max_spans:
            raise ValueError(
                f"cm3 needs span_rate >= 0 and 0 <= min_spans <= max_spans, got {self}"
            )
        known = [one.name for one in pkgutil.iter_modules(rules.__path__)]
        if self.rule and self.rule not in known:
            raise ValueError(f"cm3.rule={self.rule!r} is unknown; known: {known}")


def draw_spans(
    ids: np.ndarray,
    rng: np.random.Generator,
    config: CM3Config,
    vocab: Vocab,
    *,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Draws which spans of a sequence or row are masked.

    A span is two uniform draws u1 <= u2: [max(1, floor(u1 n)), round(u2 n)), clipped to
    the one segment that it overlaps most. For two or more spans, the square of their
    number is drawn, and kept one after the other where it meets none kept before, until
    there are enough; there may stay fewer.

    Args:
      ids: int32[n], a sequence `</s> ... </s>`, or a row of several.
      rng: Where the draws come from.
      config: The rules.
      vocab: The joint vocabulary.
      targets: int[T, 2], [start, end) in `ids` of what tasks ask for, or None.

    Returns:
      int32[S, 2], [start, end) of disjoint spans in order, none empty, none with a
      `<break>` or `</s>` within; S <= vocab.num_sentinels.
    """
    if targets is not None and len(targets) and rng.random() < config.target_mask_prob:
        spans_S2 = np.asarray(targets, np.int32)
        return _ordered(spans_S2[spans_S2[:, 0] < spans_S2[:, 1]], vocab)
    if config.rectangle_prob and rng.random() < config.rectangle_prob:
        rectangle_S2 = _draw_rectangle(ids, rng, vocab)
        if len(rectangle_S2):
            return _ordered(rectangle_S2, vocab)
    if config.rule:
        rule = importlib.import_module(f"{rules.__name__}.{config.rule}")
        return _ordered(np.asarray(rule.draw(ids, rng, vocab)).reshape(-1, 2), vocab)
    number = int(rng.poisson(config.span_rate))
    number = min(max(number, config.min_spans), config.max_spans)
    if config.rotation_prob and rng.random() < config.rotation_prob:
        return _ordered(_draw_segments(ids, rng, max(1, number), vocab), vocab)
    if not number:
        return _NONE_S2
    candidates = rng.random((number * number, 2))
    candidates.sort(axis=1)
    spans = _first_disjoint(candidates, len(ids), number)
    return _ordered(_clip_to_segments(spans, ids, vocab), vocab)


def rewrite(ids: np.ndarray, spans_S2: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Moves spans to the end, each behind its sentinel and before an end mark.

        ids    [2 10 11 12 13 9 2]   spans [[2 4]]   (sentinel 0 is 20, end is 19)
        moved  [2 10 20 13 9 2 20 11 12 19]

    Args:
      ids: int32[n].
      spans_S2: int[S, 2], disjoint, in order.
      vocab: The joint vocabulary.

    Returns:
      int32[n + 3 S]; `ids` itself if there are no spans.
    """
    if not len(spans_S2):
        return ids
    marks_S = vocab.sentinel_id(0) + np.arange(len(spans_S2), dtype=ids.dtype)
    ends_S = np.full(len(spans_S2), vocab.end_of_infill_id, ids.dtype)
    return _move(ids, spans_S2, marks_S, ends_S)


def rewrite_weights(
    weights: np.ndarray, spans_S2: np.ndarray, sentinel_weight: float
) -> np.ndarray:
    """Moves loss weights as `rewrite` moves their ids.

    Sentinels weigh `sentinel_weight` times, and end marks once, what their span's first
    token weighs.

        weights  [1 1 2 2 1]   spans [[2 4]]   sentinel_weight 0
        moved    [1 1 0 1 0 2 2 2]

    Args:
      weights: float32[n].
      spans_S2: int[S, 2], as for `rewrite`.
      sentinel_weight: 1 as CM3Leon's code, 0 as the CM3 paper.

    Returns:
      float32[n + 3 S].
    """
    if not len(spans_S2):
        return weights
    ends_S = weights[spans_S2[:, 0]]
    return _move(weights, spans_S2, ends_S * np.float32(sentinel_weight), ends_S)


def fit_to_row(spans_S2: np.ndarray, length: int) -> np.ndarray:
    """Clips spans so that they lie in what `rewrite_row` keeps of a row.

    Args:
      spans_S2: int32[S, 2], disjoint, in order.
      length: Ids in the row.

    Returns:
      int32[T, 2], T <= S: every span ends at or before `length - 3 T`.
    """
    while len(spans_S2):
        limit = length - TOKENS_PER_SPAN * len(spans_S2)
        if spans_S2[-1, 0] < limit:
            return np.minimum(spans_S2, limit)
        spans_S2 = spans_S2[:-1]  # one span less leaves three tokens more
    return spans_S2


def rewrite_row(
    ids: np.ndarray, spans_S2: np.ndarray, vocab: Vocab
) -> tuple[np.ndarray, int]:
    """Moves spans to the end of a row that keeps its length.

    The tail of the causal part makes room, so that every infill stays whole.

        ids  [2 10 11 12 13 14 15 16]   spans [[2 4]]   (sentinel 0 is 20, end is 19)
        row  [2 10 20 13 20 11 12 19]   trimmed 3: 14, 15, 16

    Args:
      ids: int32[n].
      spans_S2: int[S, 2], as `fit_to_row` returns them.
      vocab: The joint vocabulary.

    Returns:
      int32[n], and how many ids of the tail are left out.

    Raises:
      ValueError: If a span reaches into the part that is left out.
    """
    trimmed = TOKENS_PER_SPAN * len(spans_S2)
    kept = len(ids) - trimmed
    if trimmed and spans_S2[-1, 1] > kept:
        raise ValueError(
            f"span {spans_S2[-1].tolist()} reaches into the last {trimmed} of"
            f" {len(ids)} ids, which {len(spans_S2)} spans need; call fit_to_row first"
        )
    return rewrite(ids[:kept], spans_S2, vocab), trimmed


def restore(ids: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Puts moved spans back and takes the marks out; the inverse of `rewrite`.

    Args:
      ids: int[m], a rewritten sequence, or a prompt with finished infills.
      vocab: The joint vocabulary.

    Returns:
      int[n], the sequence before it was rewritten.

    Raises:
      ValueError: If sentinels and end marks do not pair up as `rewrite` leaves them.
    """
    return find_spans(ids, vocab)[0]


def find_spans(ids: np.ndarray, vocab: Vocab) -> tuple[np.ndarray, np.ndarray]:
    """Returns a rewritten sequence as it was, and which spans of it were moved.

        moved  [2 10 20 13 9 2 20 11 12 19]   (sentinel 0 is 20, end is 19)
        ids    [2 10 11 12 13 9 2]   spans [[2 4]]

    Args:
      ids: int[m], a rewritten sequence.
      vocab: The joint vocabulary.

    Returns:
      int[n], and int64[S, 2] spans, [start, end) in it.

    Raises:
      ValueError: If sentinels and end marks do not pair up as `rewrite` leaves them.
    """
    at = np.flatnonzero(vocab.is_sentinel(ids))
    if not len(at):
        return ids, np.zeros((0, 2), np.int64)
    half = len(at) // 2
    expected = vocab.sentinel_id(0) + np.arange(half)
    found = ids[at]
    if len(at) % 2 or np.any(found != np.concatenate([expected, expected])):
        raise ValueError(
            f"sentinels must occur once in place and once behind, both in order, got"
            f" {[int(mark) - vocab.sentinel_id(0) for mark in found]}; is it cut?"
        )
    ends = np.append(at[half + 1 :], len(ids)) - 1
    if np.any(ids[ends] != vocab.end_of_infill_id):
        raise ValueError("an infill lacks its end mark; is the sequence cut?")
    pieces, spans, start, length = [], [], 0, 0
    for place, mark, end in zip(at[:half], at[half:], ends, strict=True):
        pieces += [ids[start:place], ids[mark + 1 : end]]
        length += place - start
        spans.append((length, length + end - mark - 1))
        length, start = spans[-1][1], place + 1
    return np.concatenate([*pieces, ids[start : at[half]]]), np.array(spans, np.int64)


def segments(ids: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Returns int64[G, 2], [start, end) of the runs between boundaries, as `<break>`.

    ids       [</s> 5 6 <break> 7 8 </s>]
    segments  [[1 3] [4 6]]
    """
    marks = np.flatnonzero(vocab.is_boundary(ids))
    bounds = np.concatenate([[-1], marks, [len(ids)]])
    runs = np.stack([bounds[:-1] + 1, bounds[1:]], axis=1)
    return runs[runs[:, 0] < runs[:, 1]]


def _move(
    values: np.ndarray, spans_S2: np.ndarray, marks_S: np.ndarray, ends_S: np.ndarray
) -> np.ndarray:
    """The rewrite of any per-token array, with what stands for marks and ends given."""
    causal, infills, start = [], [], 0
    for index, (lo, hi) in enumerate(np.asarray(spans_S2).tolist()):
        mark = marks_S[index : index + 1]
        causal += [values[start:lo], mark]
        infills += [mark, values[lo:hi], ends_S[index : index + 1]]
        start = hi
    return np.concatenate([*causal, values[start:], *infills])


def _ordered(spans_S2: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Sorted by position, and no more than there are sentinels."""
    order = np.argsort(spans_S2[:, 0], kind="stable")
    return spans_S2[order][: vocab.num_sentinels].astype(np.int32, copy=False)


def _first_disjoint(
    draws_N2: np.ndarray, length: int, number: int
) -> list[tuple[int, int]]:
    """The first `number` of the drawn spans that do not meet an earlier one."""
    starts = np.maximum(1, np.floor(draws_N2[:, 0] * length)).astype(int).tolist()
    ends = np.rint(draws_N2[:, 1] * length).astype(int).tolist()
    kept: list[tuple[int, int]] = []
    for lo, hi in zip(starts, ends, strict=True):
        if lo < hi and all(hi <= start or lo >= end for start, end in kept):
            kept.append((lo, hi))
            if len(kept) == number:
                break
    return kept


def _clip_to_segments(
    spans: list[tuple[int, int]], ids: np.ndarray, vocab: Vocab
) -> np.ndarray:
    """Cuts every span to the segment it overlaps most; drops it if it meets none."""
    runs_G2 = segments(ids, vocab)
    if not len(runs_G2):
        return _NONE_S2
    clipped = []
    for lo, hi in spans:
        starts_G = np.maximum(runs_G2[:, 0], lo)
        ends_G = np.minimum(runs_G2[:, 1], hi)
        best = int(np.argmax(ends_G - starts_G))
        if starts_G[best] < ends_G[best]:
            clipped.append((starts_G[best], ends_G[best]))
    return np.array(clipped, np.int32).reshape(-1, 2)


def _draw_segments(
    ids: np.ndarray, rng: np.random.Generator, number: int, vocab: Vocab
) -> np.ndarray:
    """Whole segments, without replacement."""
    runs_G2 = segments(ids, vocab)
    chosen = rng.permutation(len(runs_G2))[:number]
    return runs_G2[chosen]


def _draw_rectangle(
    ids: np.ndarray, rng: np.random.Generator, vocab: Vocab
) -> np.ndarray:
    """A rectangle of a random whole picture: one span a row, sides uniform."""
    runs_G2 = segments(ids, vocab)
    whole_G = runs_G2[:, 1] - runs_G2[:, 0] == vocab.codes_per_image
    starts = runs_G2[whole_G & vocab.is_image(ids[runs_G2[:, 0]]), 0]
    if not len(starts):
        return _NONE_S2
    side = vocab.grid_size
    height, width = rng.integers(1, side + 1, 2)
    top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
    rows = starts[rng.integers(len(starts))] + (top + np.arange(height)) * side + left
    return np.stack([rows, rows + width], axis=1)
