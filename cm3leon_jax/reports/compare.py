"""The table of the job `compare`: means over seeds with 95 % intervals."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from cm3leon_jax.reports import page

# Numbers of a run by what it had cost: (training FLOPs, value) in order.
Curve = Mapping[str, Sequence[tuple[float, float]]]


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


def write(
    path: pathlib.Path,
    title: str,
    rows: Sequence[Row],
    curves: Mapping[str, Curve],
) -> None:
    """Writes the table as a page, a part for each number.

    Args:
      path: The file.
      title: What is compared.
      rows: Of the table.
      curves: Of every variant, means over its seeds; empty where nothing was trained.
    """
    parts = [
        page.heading(title, "Means over seeds with 95 % intervals (Student's t).", 1)
    ]
    keys = dict.fromkeys(key for curve in curves.values() for key in curve)
    for key in keys:
        series = {name: curve[key] for name, curve in curves.items() if key in curve}
        parts.append(page.chart(key, series, unit="training FLOPs"))
    head = ("variant", "steps", "tokens", "FLOPs", "seeds", "mean", "difference")
    for name in dict.fromkeys(row.number for row in rows):
        own = [row for row in rows if row.number == name]
        cells = [
            [
                row.variant,
                f"{row.steps:,}",
                f"{row.tokens:.3g}",
                f"{row.flops:.3g}",
                str(row.num_seeds),
                _interval(row.mean, row.half),
                _interval(row.difference, row.difference_half)
                + (" *" if row.is_beyond_chance else ""),
            ]
            for row in own
        ]
        parts += [page.heading(name), page.table(head, cells)]
    page.write(path, title, parts)


def _interval(mean: float, half: float) -> str:
    spread = "" if math.isnan(half) else f" +- {half:.3g}"
    return f"{mean:.4g}{spread}"
