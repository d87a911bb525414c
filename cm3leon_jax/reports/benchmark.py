"""The page of a benchmark: its numbers, the paper's beside them, settings, samples."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cm3leon_jax.reports import page

# Settings that a model card says beside the numbers.
_SAID = ("cases", "split", "num_samples", "num_documents", "num_examples", "seed")
_GUESS = "_guess"
_DRAWN, _DATA = "share_drawn", "share_data"
_MAX_SHOWN = 200  # cases on the page


def text(name: str, numbers: Mapping[str, float], paper: Mapping[str, float]) -> str:
    """Returns the table as lines for a terminal."""
    lines = [f"{name:<32} {'here':>10} {'paper':>10}"]
    for key, value in numbers.items():
        theirs = f"{paper[key]:.4g}" if key in paper else ""
        lines.append(f"{key:<32} {value:>10.4g} {theirs:>10}")
    return "\n".join(lines)


def beside_guesses(numbers: Mapping[str, float]) -> str:
    """Returns a table of numbers, each beside what guessing gives (`{name}_guess`)."""
    lines = [f"{'number':<32} {'measured':>10} {'guessing':>10}"]
    for key, value in numbers.items():
        if not key.endswith(_GUESS):
            guess = numbers.get(f"{key}{_GUESS}")
            beside = "" if guess is None else f"{guess:.4g}"
            lines.append(f"{key:<32} {value:>10.4g} {beside:>10}")
    return "\n".join(lines) + "\n"


def markdown(
    name: str, numbers: Mapping[str, float], settings: Mapping[str, Any]
) -> str:
    """Returns the numbers as tables of a model card: whole, by group, against the data.

    Args:
      name: Of the benchmark.
      numbers: By name, those of groups as `{name}/{group}`.
      settings: What moves them; the card says those that `_SAID` names.
    """
    said = ", ".join(f"{key} {settings[key]}" for key in _SAID if key in settings)
    whole = {key: value for key, value in numbers.items() if "/" not in key}
    parts = [f"### {name}", *([f"{said}."] if said else [])]
    parts.append(_table(("number", "value"), list(whole.items())))
    split = [(*key.split("/", 1)[::-1], v) for key, v in numbers.items() if "/" in key]
    sides = (_DRAWN, _DATA)
    groups = [one for one in split if one[1] not in sides]
    if groups:
        parts.append(_table(("group", "number", "value"), groups))
    shares = {key: [g for g, n, _ in split if n == key] for key in sides}
    if shares[_DRAWN]:
        rows = [
            (g, *(numbers[f"{side}/{g}"] for side in sides)) for g in shares[_DRAWN]
        ]
        parts.append(_table(("nearest to", "of drawn pictures", "of the data"), rows))
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head)]
    lines += [[_cell(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


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
