"""The page of the job `generate`: what was asked, what came out."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from cm3leon_jax.reports import page

_MAX_SHOWN = 400  # results; a page of more is slow to open


@dataclasses.dataclass(frozen=True)
class Result:
    """One request and what it gave.

    Attributes:
      kind: Of the request.
      asked: Its words; may be empty.
      given: Its picture uint8[Y, X, 3], or None.
      written: The text that came out, or None.
      drawn: The picture that came out, uint8[Y, X, 3], or None.
      retrieved: Ids of the documents in front.
    """

    kind: str
    asked: str
    given: np.ndarray | None
    written: str | None
    drawn: np.ndarray | None
    retrieved: Sequence[str] = ()


def write(path: pathlib.Path, results: Sequence[Result]) -> None:
    """Writes the page, the results grouped by kind in the order of their first."""
    parts = [page.heading("What the model made", level=1)]
    if len(results) > _MAX_SHOWN:
        note = f"The first {_MAX_SHOWN} of {len(results)}; all are in results.jsonl."
        parts.append(page.say("", note))
    shown = results[:_MAX_SHOWN]
    for kind in dict.fromkeys(result.kind for result in shown):
        of_kind = [_card(result) for result in shown if result.kind == kind]
        parts += [page.heading(kind), page.cards(of_kind)]
    page.write(path, "What the model made", parts)


def _card(result: Result) -> str:
    pictures = []
    if result.given is not None:
        pictures.append(page.picture(result.given, "given"))
    if result.drawn is not None:
        pictures.append(page.picture(result.drawn, "drawn"))
    parts = [page.row(pictures)] if pictures else []
    if result.asked:
        parts.append(page.say("asked", result.asked))
    if result.written is not None:
        parts.append(page.say("written", result.written))
    if result.retrieved:
        parts.append(page.say("retrieved", ", ".join(result.retrieved)))
    return "".join(parts)
