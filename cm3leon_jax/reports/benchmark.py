"""The page of a benchmark: its numbers, the paper's beside them, settings, samples."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cm3leon_jax.reports import page

_MAX_SHOWN = 200  # cases on the page


def text(name: str, numbers: Mapping[str, float], paper: Mapping[str, float]) -> str:
    """Returns the table as lines for a terminal."""
    lines = [f"{name:<32} {'here':>10} {'paper':>10}"]
    for key, value in numbers.items():
        theirs = f"{paper[key]:.4g}" if key in paper else ""
        lines.append(f"{key:<32} {value:>10.4g} {theirs:>10}")
    return "\n".join(lines)


def write(
    path: pathlib.Path,
    name: str,
    numbers: Mapping[str, float],
    paper: Mapping[str, float],
    settings: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the page.

    Args:
      path: The file; drawn pictures are looked up beside it.
      name: Of the benchmark.
      numbers: By name, those of groups as `{name}/{group}`.
      paper: The paper's numbers, by the same names.
      settings: All that moves a number.
      lines: What came out: `asked`, `written` or `drawn`, and `people`.
    """
    whole = [
        [key, page.number(value), page.number(paper[key]) if key in paper else ""]
        for key, value in numbers.items()
        if "/" not in key
    ]
    parts = [page.heading(name, level=1)]
    parts.append(page.table(("number", "here", "paper"), whole))
    groups = [(key, value) for key, value in numbers.items() if "/" in key]
    if groups:
        rows = [[*key.split("/", 1)[::-1], page.number(value)] for key, value in groups]
        parts += [
            page.heading("By group"),
            page.table(("group", "number", "here"), rows),
        ]
    rows = [[key, str(value)] for key, value in settings.items()]
    parts += [page.heading("Settings"), page.table(("setting", "value"), rows)]
    parts += [page.heading("Samples")]
    parts.append(page.cards([_card(path.parent, one) for one in lines[:_MAX_SHOWN]]))
    page.write(path, name, parts)


def _card(folder: pathlib.Path, line: Mapping[str, Any]) -> str:
    shown = []
    if line.get("drawn"):
        # Imported here: a page of text needs no pictures read.
        import numpy as np
        from PIL import Image

        with Image.open(folder / "drawn" / line["drawn"]) as picture:
            shown.append(page.row([page.picture(np.asarray(picture.convert("RGB")))]))
    shown.append(page.say("case", str(line["key"])))
    if line["asked"]:
        shown.append(page.say("asked", line["asked"]))
    if "written" in line:
        shown.append(page.say("written", line["written"]))
        shown.append(page.say("people", "; ".join(line["people"][:5])))
    return "".join(shown)
