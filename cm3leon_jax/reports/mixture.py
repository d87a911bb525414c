"""The mixture as a person reads it before training: a table, and an example of each set.

    set      examples   weight   share   epochs   tokens   asked
    coco      591,753        1   0.051     2.90    1,042    51 %
      Describe the given picture.{ A dog on a sofa.} <break> [picture] </s>

The part in braces is the target; a gap is a space that belongs to it. `asked` is the
share of examples whose target is the infill, or comes after all that it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cm3leon_jax.data.record import Record
from cm3leon_jax.data.survey import SetSurvey
from cm3leon_jax.vocab import Vocab

MAX_TEXT = 300  # characters of an example that are shown

Decode = Callable[[list[int]], str]


def text(sets: Sequence[SetSurvey], vocab: Vocab, decode: Decode | None) -> str:
    """Returns the table and the examples, as lines.

    Args:
      sets: Of the mixture.
      vocab: Of their documents.
      decode: From text ids to a string; None shows how many ids there are.
    """
    width = max(len(one.name) for one in sets)
    total = sum(one.weight for one in sets)
    names = ("examples", 12), ("weight", 8), ("share", 6), ("epochs", 8)
    names += ("tokens", 7), ("asked", 6)
    head = " ".join(f"{name:>{size}}" for name, size in names)
    lines = [f"{'set':<{width}} {head}"]
    for one in sets:
        asked = f"{100 * one.asked_share:.0f} %" if one.target_share else "-"
        lines.append(
            f"{one.name:<{width}} {one.examples:>12,} {one.weight / total:>8.4f}"
            f" {one.share:>6.3f} {one.epochs:>8.2f} {one.mean_length:>7,.0f} {asked:>6}"
        )
        if one.too_long_share:
            share = f"{100 * one.too_long_share:.0f} %"
            lines.append(f"  {share} of those looked at fit no row, and are left out")
        if one.neighbors_dropped:
            lines.append(
                f"  {one.neighbors:.1f} retrieved documents stand in front of each,"
                f" {one.neighbors_dropped:.1f} more have no room in a row"
            )
        if one.sample is not None:
            lines.append(f"  {example(one.sample, vocab, decode)}")
    return "\n".join(lines)


def example(record: Record, vocab: Vocab, decode: Decode | None) -> str:
    """Returns a document on one line: pictures marked, its target in braces."""
    shown, start = [], 0
    for segment in record.document(vocab).segments:
        end = start + len(segment.ids)
        if vocab.is_image(segment.ids).any():
            shown.append("[picture]")
        else:
            shown.append(_text(segment.ids.tolist(), start, record.target, decode))
        start = end + 1  # its <break>
    return " <break> ".join(shown)


def _text(
    ids: list[int], start: int, target: tuple[int, int] | None, decode: Decode | None
) -> str:
    if decode is None:
        return f"[text of {len(ids)} ids]"
    if target is None or not start <= target[0] <= start + len(ids):
        return _short(decode(ids))
    lo, hi = target[0] - start, target[1] - start
    before, inside, after = (
        _short(decode(part)) for part in (ids[:lo], ids[lo:hi], ids[hi:])
    )
    return f"{before}{{{inside}}}{after}"


def _short(words: str) -> str:
    words = words.replace("\n", "\\n")
    return words if len(words) <= MAX_TEXT else f"{words[:MAX_TEXT]} ..."
