"""The data card of a set of shards as a page: Markdown, made of counts alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cm3leon_jax.data.card import OTHERS, Card

_MAX_ROWS = 30  # of a table; the JSON beside the page has all


def markdown(
    name: str, cards: Mapping[str, Card], refusals: Mapping[str, Any], made_by: str
) -> str:
    """Returns the page.

    Args:
      name: The set's name.
      cards: Counts by split.
      refusals: What was not taken (`Refusals.to_json`).
      made_by: One line: what was read, and how.
    """
    whole = Card()
    for card in cards.values():
        whole.add(card)
    lines = [f"# Data card of `{name}`", "", made_by, "", *_splits(cards)]
    lines += _table("Source", whole.sources, whole.documents)
    lines += _table("Licence", whole.licences, whole.documents)
    lines += _lengths(whole)
    lines += _refused(refusals)
    return "\n".join(lines)


def _splits(cards: Mapping[str, Card]) -> list[str]:
    columns = ("documents", "tokens", "pictures", "text_tokens", "with_vectors")
    lines = [
        f"| split | {' | '.join(column.replace('_', ' ') for column in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for split, card in cards.items():
        numbers = " | ".join(f"{getattr(card, column):,}" for column in columns)
        lines.append(f"| {split} | {numbers} |")
    return [*lines, ""]


def _table(title: str, counts: Mapping[str, int], total: int) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:_MAX_ROWS]
    rest = sum(number for _, number in ordered[_MAX_ROWS:])
    shown += [(OTHERS, rest)] if rest else []
    lines = [f"| {title.lower()} | documents | share |", "|---|---|---|"]
    for name, number in shown:
        lines.append(f"| {_cell(name)} | {number:,} | {number / total:.1%} |")
    return [f"## {title}", "", *lines, ""]


def _lengths(card: Card) -> list[str]:
    mean = card.text_tokens / max(1, card.documents)
    lines = [
        "## Text",
        "",
        f"{mean:.1f} tokens of text a document on average.",
        "",
        "| tokens of text | documents |",
        "|---|---|",
    ]
    for bits in sorted(card.caption_lengths, key=int):
        low, high = (1 << int(bits)) >> 1, (1 << int(bits)) - 1
        span = f"{low:,} to {high:,}" if low < high else f"{high:,}"
        lines.append(f"| {span} | {card.caption_lengths[bits]:,} |")
    return [*lines, ""]


def _refused(refusals: Mapping[str, Any]) -> list[str]:
    accepted, refused, total = (
        f"{refusals[key]:,}" for key in ("accepted", "refused", "total")
    )
    said = f"{accepted} rows accepted + {refused} refused = {total}."
    lines = ["## Refused", "", said, ""]
    if not refusals["refused"]:
        return lines
    lines += ["| reason | rows |", "|---|---|"]
    ordered = sorted(refusals["by_reason"].items(), key=lambda item: (-item[1], item))
    return [*lines, *(f"| {_cell(why)} | {n:,} |" for why, n in ordered), ""]


def _cell(text: str) -> str:
    """Text of others, so that it stays within its cell and draws nothing."""
    safe = "".join(one if one.isprintable() else " " for one in text[:120])
    for mark in "\\`|<>[]*_":
        safe = safe.replace(mark, f"\\{mark}")
    return safe
