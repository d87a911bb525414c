"""The table of the job `compare`: means over seeds with 95 % intervals."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from cm3leon_jax.reports import page

# Numbers of a run by what it had cost: (training FLOPs, value) in order.
Curve = Mapping[str, Sequence[tuple[float, float]]]
Table = tuple[Sequence[str], list[list[str]]]  # its head, and its lines
_GUESS = "_guess"
_CHART_WIDTH = 480  # pixels at least: two stand side by side
_ABOUT = (
    "Means over seeds with 95 % intervals (Student's t); in brackets the difference from"
    " the first variant, seed by seed, with a star where its interval leaves out 0."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of one variant.

    Attributes:
      number: Its name.
      variant: Its name.
      steps: Of each run. Likewise `tokens` and training `flops`.
      num_seeds: Runs.
      mean: Over the runs; `half` of its 95 % interval, nan for a single run.
      difference: From the first variant, seed by seed; likewise its half.
    """

    number: str
    variant: str
    steps: int
    tokens: float
    flops: float
    num_seeds: int
    mean: float
    half: float
    difference: float
    difference_half: float

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return abs(self.difference) > self.difference_half

    def to_json(self) -> dict[str, str | float | None]:
        """JSON values; what a single run does not tell is null."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }


def text(rows: Sequence[Row]) -> str:
    """Returns the table as lines; a star marks a difference beyond chance."""
    head = f"{'number':<36} {'variant':<16} {'FLOPs':>9} {'seeds':>5}"
    lines = [f"{head} {'mean':>20} {'difference':>22}"]
    for row in rows:
        star = "*" if row.is_beyond_chance else " "
        apart = f"{_interval(row.difference, row.difference_half)}{star}"
        lines.append(
            f"{row.number:<36} {row.variant:<16} {row.flops:>9.2e} {row.num_seeds:>5}"
            f" {_interval(row.mean, row.half):>20} {apart:>22}"
        )
    return "\n".join(lines) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """Returns two tables in Markdown: what the variants cost, and the numbers.

    A number is a row, a variant a column; in brackets the difference from the first
    variant, with a star if it is beyond chance.
    """
    return "\n\n".join(
        "\n".join(
            f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)
        )
        for head, body in (_costs(rows), _numbers(rows))
    )


def write(
    path: pathlib.Path,
    title: str,
    rows: Sequence[Row],
    curves: Mapping[str, Curve],
) -> None:
    """Writes the tables as a page, above them the curves.

    Args:
      path: The file.
      title: What is compared.
      rows: Of the table.
      curves: Of every variant, means over its seeds; empty where nothing was trained.
    """
    parts = [page.heading(title, _ABOUT, 1), page.table(*_costs(rows))]
    keys = dict.fromkeys(key for curve in curves.values() for key in curve)
    charts = []
    for key in keys:
        series = {name: curve[key] for name, curve in curves.items() if key in curve}
        charts.append(page.chart(key, series, unit="training FLOPs"))
    parts += [page.cards(charts, width=_CHART_WIDTH)] if charts else []
    parts += [page.heading("Numbers"), page.table(*_numbers(rows))]
    page.write(path, title, parts)


def _costs(rows: Sequence[Row]) -> Table:
    """What a run of each variant cost."""
    head = ("variant", "steps", "tokens", "FLOPs", "seeds")
    several = {row.variant: row for row in reversed(rows)}
    return head, [
        [
            name,
            f"{several[name].steps:,}",
            f"{several[name].tokens:.3g}",
            f"{several[name].flops:.3g}",
            str(several[name].num_seeds),
        ]
        for name in dict.fromkeys(row.variant for row in rows)
    ]


def _numbers(rows: Sequence[Row]) -> Table:
    """Every number of every variant; what guessing gives stands by its name."""
    names = list(dict.fromkeys(row.variant for row in rows))
    found = {(row.number, row.variant): row for row in rows}
    body = []
    for number in dict.fromkeys(row.number for row in rows):
        if number.endswith(_GUESS):
            continue
        guess = found.get((f"{number}{_GUESS}", names[0]))
        beside = "" if guess is None else f" (guessing {guess.mean:.3f})"
        cells = [
            _cell(found[number, name], is_first=name == names[0])
            if (number, name) in found
            else ""
            for name in names
        ]
        body.append([f"{number}{beside}", *cells])
    return ("number", *names), body


def _cell(row: Row, *, is_first: bool) -> str:
    mean = f"{row.mean:.3f}" + _spread(row.half)
    if is_first:
        return mean
    star = " *" if row.is_beyond_chance else ""
    return f"{mean} ({row.difference:+.3f}{_spread(row.difference_half)}{star})"


def _spread(half: float) -> str:
    return "" if math.isnan(half) else f" ± {half:.3f}"


def _interval(mean: float, half: float) -> str:
    spread = "" if math.isnan(half) else f" +- {half:.3g}"
    return f"{mean:.4g}{spread}"
