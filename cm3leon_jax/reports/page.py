"""Pieces of a self-contained HTML page: pictures, cards, tables, line charts.

A page is one file without links: pictures are embedded, charts are SVG, the style is
inside. Every string is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from cm3leon_jax import storage

_STYLE = """
:root { --ink:#1d2433; --soft:#667085; --line:#e4e7ec; --paper:#fff; --ground:#f6f7f9;
  --accent:#3457d5; --good:#17803d; --bad:#b42318; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaf0; --soft:#98a2b3;
  --line:#2c3444; --paper:#171c26; --ground:#0f131a; --accent:#8aa4ff; --good:#5bd68a;
  --bad:#ff8a7d; } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:1080px; margin:0 auto; padding:40px 24px 80px; }
h1 { font-size:30px; letter-spacing:-.02em; margin:0 0 6px; }
h2 { font-size:19px; margin:44px 0 4px; }
p { margin:4px 0 14px; color:var(--soft); max-width:74ch; }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(var(--wide),1fr));
  gap:14px; margin-top:12px; }
.card { background:var(--paper); border:1px solid var(--line); border-radius:10px;
  padding:12px; }
.row { display:flex; gap:10px; align-items:flex-start; }
figure { margin:0; text-align:center; }
figure img { image-rendering:pixelated; border-radius:6px; display:block;
  margin:0 auto 4px; border:1px solid var(--line); }
figcaption { font-size:12px; color:var(--soft); max-width:150px; }
.say { font-size:13px; margin:8px 0 0; max-width:40ch; color:var(--ink); }
.say b { font-weight:600 } .good { color:var(--good) } .bad { color:var(--bad) }
.soft { color:var(--soft) }
table { border-collapse:collapse; background:var(--paper); margin-top:12px;
  border:1px solid var(--line); border-radius:10px; overflow:hidden; }
th,td { padding:7px 14px; text-align:left; border-bottom:1px solid var(--line);
  font-variant-numeric:tabular-nums; }
th { font-size:12px; color:var(--soft); font-weight:600; }
tr:last-child td { border-bottom:0 }
td.number { text-align:right }
.bar { position:relative; width:220px; height:10px; border-radius:5px;
  background:var(--line); }
.bar i { position:absolute; left:0; top:0; bottom:0; border-radius:5px;
  background:var(--accent); }
.bar u { position:absolute; top:-3px; bottom:-3px; width:2px; background:var(--ink);
  opacity:.55 }
.big { display:flex; flex-wrap:wrap; gap:30px; margin:22px 0 4px; }
.big div { font-size:13px; color:var(--soft); }
.big b { display:block; font-size:28px; color:var(--ink); letter-spacing:-.02em; }
svg { max-width:100%; height:auto; }
svg text { font:11px system-ui,sans-serif; fill:var(--soft); }
code { font-size:13px; background:var(--paper); border:1px solid var(--line);
  border-radius:5px; padding:1px 5px; overflow-wrap:anywhere; }
"""
_COLOURS = ("#3457d5", "#d9722b", "#1f9d6b", "#a13fc0", "#c0392b")
_SMALL = 5e-4  # below it three digits show nothing
_MANY = 1e8  # from here on digits are no use on an axis
_CHART = (500, 210)  # width and height of a chart, in pixels
_MARGIN = (46, 12, 26, 10)  # left, right, bottom, top


def write(path: str | pathlib.Path, title: str, parts: Sequence[str]) -> None:
    """Writes a page of the given HTML parts, atomically."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    storage.write_bytes(path, text.encode())


def heading(title: str, about: str = "", level: int = 2) -> str:
    """A heading with a line that says what is shown."""
    line = f"<p>{html.escape(about)}</p>" if about else ""
    return f"<h{level}>{html.escape(title)}</h{level}>{line}"


def picture(pixels: np.ndarray, caption: str = "", size: int = 112) -> str:
    """A picture with a line under it.

    Args:
      pixels: uint8[Y, X, 3].
      caption: A short line; may be empty.
      size: Width on the page, in pixels.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    words = html.escape(caption)
    return (
        f'<figure><img width="{size}" alt="{words}"'
        f' src="data:image/png;base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def say(label: str, text: str, *, good: bool | None = None) -> str:
    """A labelled line of a card, green or red if it is right or wrong."""
    mark = "" if good is None else ' class="good"' if good else ' class="bad"'
    sign = "" if good is None else " ✓" if good else " ✗"
    return (
        f'<div class="say"><b>{html.escape(label)}</b>'
        f" <span{mark}>{html.escape(text)}{sign}</span></div>"
    )


def row(pieces: Sequence[str]) -> str:
    """Pieces side by side."""
    return f'<div class="row">{"".join(pieces)}</div>'


def cards(items: Sequence[str], width: int = 240) -> str:
    """Cards in as many columns of at least `width` pixels as the page holds."""
    boxes = "".join(f'<div class="card">{item}</div>' for item in items)
    return f'<div class="cards" style="--wide:{width}px">{boxes}</div>'


def figures(numbers: Mapping[str, str]) -> str:
    """Large numbers with their names beneath."""
    boxes = "".join(
        f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>"
        for name, value in numbers.items()
    )
    return f'<div class="big">{boxes}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells that begin with `<` are HTML of this module, others are text."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(_cell(cell) for cell in cells) + "</tr>" for cells in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    if text.startswith("<"):
        return f"<td>{text}</td>"
    number = text[:1].isdigit() or text[:1] == "-"
    kind = ' class="number"' if number else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def number(value: float) -> str:
    """A number as a person reads it: whole, with three digits, or as a small power."""
    if value == int(value) and abs(value) >= 1:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < _SMALL else f"{value:.3f}"


def bar(value: float, guess: float | None = None) -> str:
    """A share in [0, 1] as a bar, with a tick where guessing stands."""
    width = 100 * min(max(value, 0.0), 1.0)
    tick = "" if guess is None else f'<u style="left:{100 * min(guess, 1.0):.1f}%"></u>'
    return f'<div class="bar"><i style="width:{width:.1f}%"></i>{tick}</div>'


def chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, unit: str = ""
) -> str:
    """A line chart as SVG.

    Args:
      title: What it shows.
      series: Names to (x, y) points in order of x; values that are not finite are left
        out, and so are empty series.
      unit: Of the x axis.
    """
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(y)]
        for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys))
    lines, names = [], []
    for index, (name, points) in enumerate(kept.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"'
            f' points="{path}"/>'
        )
        names.append(f'<span style="color:{colour}">{html.escape(name)}</span>')
    width, height = _CHART
    return (
        f'<div class="say"><b>{html.escape(title)}</b> {" · ".join(names)}</div>'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{frame.axes(unit)}{''.join(lines)}</svg>"
    )


class _Frame:
    """The map from values to pixels of a chart, and its axes."""

    def __init__(self, left: float, right: float, low: float, high: float):
        # A single place still has a width, however large its number.
        self._left, self._right = left, max(right, left + 1e-9 * max(1.0, abs(left)))
        self._low, self._high = low, max(high, low + 1e-9)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        left, right, _, _ = _MARGIN
        share = (value - self._left) / (self._right - self._left)
        return left + share * (_CHART[0] - left - right)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        _, _, bottom, top = _MARGIN
        share = (value - self._low) / (self._high - self._low)
        return _CHART[1] - bottom - share * (_CHART[1] - bottom - top)

    def axes(self, unit: str) -> str:
        """SVG of three grid lines and their labels."""
        parts = []
        for share in (0.0, 0.5, 1.0):
            value = self._low + share * (self._high - self._low)
            y = self.y(value)
            parts.append(
                f'<line x1="{_MARGIN[0]}" x2="{_CHART[0] - _MARGIN[1]}" y1="{y:.1f}"'
                f' y2="{y:.1f}" stroke="var(--line)"/>'
                f'<text x="{_MARGIN[0] - 6}" y="{y + 4:.1f}"'
                f' text-anchor="end">{value:.3g}</text>'
            )
            x_value = self._left + share * (self._right - self._left)
            anchor = ("start", "middle", "end")[round(share * 2)]
            digits = ",.0f" if self._right < _MANY else ".3g"
            name = format(x_value, digits) + (f" {unit}" if share == 1.0 else "")
            parts.append(
                f'<text x="{self.x(x_value):.1f}" y="{_CHART[1] - 8}"'
                f' text-anchor="{anchor}">{html.escape(name)}</text>'
            )
        return "".join(parts)
