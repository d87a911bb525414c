"""The page of a quickstart: what was drawn and said, the numbers, the time it took.

Reads what the stages left in their folders and nothing else; a part whose folder is
missing is left out.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from cm3leon_jax.reports import page, samples
from cm3leon_jax.reports.samples import Sample

_MAX_POINTS = 300  # of a curve
_RIGHT = 0.999  # a score from which a case counts as right
_GB = "GB"
_PICTURE_WIDTH, _CARD_PADDING, _MIN_CARD = 122, 26, 200  # pixels
_CURVE_WIDTH = 510
_SHEET_WIDTH = 1024
_GIVEN = {"drawings": "nearest in training"}  # what `given` is, where not the prompt


@dataclasses.dataclass(frozen=True)
class _Gallery:
    """One kind of sample on the page: its key, a heading, a line, how many."""

    key: str
    title: str
    about: str
    count: int = 12


_GALLERIES = (
    _Gallery(
        "objects",
        "Drawn from text",
        "One sample a prompt, nothing retrieved, no re-ranking. The judge reads each"
        " drawing back; it never sees the prompt.",
        16,
    ),
    _Gallery(
        "objects_guided",
        "The same prompts with guidance",
        "Classifier-free guidance: the unconditional stream has <mask> for the text.",
        8,
    ),
    _Gallery(
        "emblems_2",
        "Emblems that training never showed",
        "Each has a fixed look that only the memory bank knows. Retrieved by the words"
        " of the prompt, the documents stand in front of it.",
        9,
    ),
    _Gallery(
        "emblems_0",
        "The same without retrieval",
        "Nothing can tell the model how they look: it guesses.",
        6,
    ),
    _Gallery("captions", "Captions", "The text is infilled before the picture.", 12),
    _Gallery("answers", "Answers", "Questions about a picture, infilled likewise.", 12),
    _Gallery(
        "edits", "Edits by instruction", "The picture before, and what was made of it."
    ),
    _Gallery(
        "infills",
        "Hidden parts drawn anew",
        "The pixels are blanked before the picture is encoded.",
    ),
    _Gallery("layouts", "Drawn from a layout", "Objects named with their boxes.", 8),
    _Gallery(
        "segmentations",
        "Drawn from a segmentation map",
        "The map on the left, the drawing on the right.",
        8,
    ),
    _Gallery("text_infills", "Hidden words", "A part of a caption, infilled.", 8),
    _Gallery(
        "drawings",
        "Drawn from held-out captions",
        "Beside each drawing the training picture nearest to it, so that copying shows.",
        24,
    ),
    _Gallery(
        "reconstructed",
        "The image tokenizer",
        "Held-out pictures, and what is left after they became codes and pixels again.",
    ),
)


def write(
    root: pathlib.Path,
    metrics: Mapping[str, float],
    stages: Mapping[str, Mapping[str, float]],
) -> pathlib.Path:
    """Writes `report.html` of a run.

    Args:
      root: The run's folder, with the stages' folders in it.
      metrics: The numbers, each perhaps with a `*_guess` beside it.
      stages: `seconds` and `peak_memory_gb` of every stage.

    Returns:
      The page's path.
    """
    found = samples.read(root / "evaluate")
    parts = [
        page.heading("CM3Leon, from pictures and captions", _about(root), level=1),
        page.figures(_headline(metrics)),
        page.heading("Numbers", "The tick on a bar is what guessing gives."),
        _numbers(metrics),
    ]
    for gallery in _GALLERIES:
        chosen = [sample for sample in found if sample.key == gallery.key]
        if chosen:
            parts.append(page.heading(gallery.title, gallery.about))
            shown = [_card(sample) for sample in chosen[: gallery.count]]
            parts.append(page.cards(shown, _width(chosen[: gallery.count])))
    parts += _enlarged(root)
    parts += [
        page.heading("Training", "Means over the steps between two entries."),
        page.cards(_curves(root), _CURVE_WIDTH),
        page.heading("Time and memory", "Memory is the whole process tree's peak."),
        _stages(stages),
    ]
    path = root / "report.html"
    page.write(path, "CM3Leon run", parts)
    return path


def _about(root: pathlib.Path) -> str:
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    data = config["data"] or "the built-in scenes"
    return f"{data}, preset {config['preset']}: every stage ran on this machine."


def _headline(metrics: Mapping[str, float]) -> dict[str, str]:
    """The few numbers that a person asks for first."""
    known = {
        "objects": "objects drawn right",
        "captions": "captions wholly right",
        "answers": "answers right",
        "edits": "edits right",
        "emblems_2": "unseen emblems right, retrieved",
        "drawing_finds_caption": "drawings find their caption in a hundred",
    }
    if "num_pictures" in metrics:  # no judge: captions are compared by their words
        known["captions"] = "words of captions right (F1)"
    shown = {
        label: f"{100 * metrics[key]:.0f} %"
        for key, label in known.items()
        if key in metrics
    }
    shown["in all"] = f"{metrics['seconds'] / 60:.1f} min"
    shown["peak memory"] = f"{metrics['peak_memory_gb']:.1f} {_GB}"
    return shown


def _numbers(metrics: Mapping[str, float]) -> str:
    rows = []
    for name, value in metrics.items():
        if name.endswith("_guess") or name in ("seconds", "peak_memory_gb"):
            continue
        guess = metrics.get(f"{name}_guess")
        is_share = 0 <= value <= 1 and guess is not None and guess <= 1
        rows.append(
            [
                name,
                page.number(value),
                "" if guess is None else page.number(guess),
                page.bar(value, guess) if is_share else "",
            ]
        )
    return page.table(("number", "measured", "guessing", ""), rows)


def _enlarged(root: pathlib.Path) -> list[str]:
    """Held-out pictures enlarged, if a stage learnt it."""
    path = root / "super_resolution" / "enlarged.png"
    if not path.exists():
        return []
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    about = (
        "What the image tokenizer draws at 64 pixels; made four times as large by"
        " bicubic interpolation; by the network; and the original. Held-out scenes."
    )
    return [
        page.heading("Super-resolution", about),
        page.row([page.picture(pixels, size=_SHEET_WIDTH)]),
    ]


def _width(shown: Sequence[Sample]) -> int:
    """Pixels that the sample with the most pictures needs."""
    most = max(
        len(each.neighbours) + (each.given is not None) + (each.drawn is not None)
        for each in shown
    )
    return max(most * _PICTURE_WIDTH + _CARD_PADDING, _MIN_CARD)


def _card(sample: Sample) -> str:
    """One sample: its prompt, the pictures, what came out and whether it is right."""
    pictures = [
        page.picture(pixels, caption)
        for pixels, caption in (
            *((neighbour, "retrieved") for neighbour in sample.neighbours),
            (sample.given, _GIVEN.get(sample.key, "given")),
            (sample.drawn, "drawn"),
        )
        if pixels is not None
    ]
    lines = [page.say("", sample.prompt), page.row(pictures)]
    if sample.written:
        right = None if sample.score is None else sample.score >= _RIGHT
        lines.append(
            page.say("read" if sample.is_read else "", sample.written, good=right)
        )
    if sample.expected not in ("", sample.prompt, sample.written):
        lines.append(page.say("right", sample.expected))
    return "".join(lines)


def _curves(root: pathlib.Path) -> list[str]:
    """A chart for each loss that a stage logged."""
    charts = []
    for name, title, keys in (
        (
            "vqgan",
            "Image tokenizer",
            ("reconstruction", "gradient_pyramid", "commitment"),
        ),
        ("clip", "Bi-encoder", ("loss",)),
        ("super_resolution", "Super-resolution", ("l1",)),
        ("pretrain", "Pretraining", ("loss", "loss_text", "loss_image")),
        ("sft", "Instruction tuning", ("loss", "loss_text", "loss_image")),
    ):
        entries = _entries(root / name / "metrics.jsonl")
        series = {key: _points(entries, key) for key in keys}
        drawn = page.chart(title, series, unit="steps")
        if drawn:
            charts.append(drawn)
    return charts


def _entries(path: pathlib.Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def _points(
    entries: Sequence[Mapping[str, float]], key: str
) -> list[tuple[float, float]]:
    points = [
        (entry["step"], entry[key])
        for entry in entries
        if isinstance(entry.get(key), float | int)
    ]
    stride = max(1, len(points) // _MAX_POINTS)
    return points[::stride]


def _stages(stages: Mapping[str, Mapping[str, float]]) -> str:
    total = sum(stage["seconds"] for stage in stages.values()) or 1.0
    rows = [
        [
            name,
            f"{stage['seconds']:.0f} s",
            f"{stage['peak_memory_gb']:.2f} {_GB}",
            page.bar(stage["seconds"] / total),
        ]
        for name, stage in stages.items()
    ]
    return page.table(("stage", "time", "peak memory", ""), rows)
