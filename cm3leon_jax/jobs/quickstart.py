"""The whole path on one machine, as the stages that a pod runs with larger numbers.

Nothing is computed here: every stage is a public command in a folder of its own, and
what they wrote becomes one table and one page.
"""

from __future__ import annotations

import itertools
import json
import pathlib

import ml_collections

from cm3leon_jax import storage
from cm3leon_jax.data import splits
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.jobs import folder, stages
from cm3leon_jax.jobs.stages import Stage
from cm3leon_jax.reports import page
from cm3leon_jax.reports import run as report

_REQUESTS = "requests.jsonl"
_NUM_ASKED = 6  # held-out pictures that `generate` is asked about
_LARGE, _ENLARGING = "large_scenes", "super_resolution"
_LARGE_ROWS = {"full": 1_000, "debug": 24}  # training pictures of 256 pixels


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Runs the stages, writes `metrics.json` and `report.html`, prints the table.

    Raises:
      FileNotFoundError: If `config.data` names no folder.
      ValueError: If a stage fails.
    """
    root = pathlib.Path(workdir)
    if config.data and not pathlib.Path(config.data).is_dir():
        raise FileNotFoundError(
            f"no folder {config.data}; DATA names a folder of captioned pictures"
        )
    if folder.start(config, workdir):
        stages.run(plan(root, config.preset, config.data), root)
        took = stages.record(root)
        evaluated = folder.summary(str(root / "evaluate"))
        enlarged = folder.summary(str(root / _ENLARGING))
        metrics = {
            **(evaluated or {}),
            **{f"enlarged_{name}": value for name, value in (enlarged or {}).items()},
            "seconds": round(sum(stage["seconds"] for stage in took.values()), 1),
            "peak_memory_gb": max(stage["peak_memory_gb"] for stage in took.values()),
        }
        storage.write_json(root / "metrics.json", metrics)
        report.write(root, metrics, took)
        folder.finish(workdir, metrics)
    _print_table(storage.read_json(root / "metrics.json"))
    print(f"\nreport: {root / 'report.html'}")


def plan(root: pathlib.Path, preset: str, data: str) -> list[Stage]:
    """The stages of a run in `root`, on the built-in scenes or on a folder `data`.

    Stages on a person's own pictures get `pictures` beside the preset: captions and
    drawings are their only tasks, since nothing else is annotated.
    """
    argument = f"{preset},pictures" if data else preset
    pictures = data or str(root / "scenes")
    if data:
        first = Stage(
            "check",
            f"configs/check.py:{argument}",
            {"pictures.folder": data},
            "look through the pictures and captions",
        )
    else:
        first = Stage(
            "scenes",
            f"configs/scenes.py:{preset}",
            {},
            "draw the built-in world: pictures, captions, annotations",
        )

    def stage(name: str, about: str, config: str = "", **overrides: str) -> Stage:
        fields = {key.replace("__", "."): value for key, value in overrides.items()}
        return Stage(name, f"configs/{config or name}.py:{argument}", fields, about)

    def made(name: str) -> str:
        return str(root / name)

    enlarging = [] if data else _enlarging(root, preset)
    upscaler = {"upscaler": made(_ENLARGING)} if enlarging else {}
    return [
        first,
        stage(
            "tokenizer",
            "train the text tokenizer on the captions",
            pictures__folder=pictures,
        ),
        stage(
            "vqgan",
            "train the image tokenizer: pixels to codes and back",
            pictures__folder=pictures,
        ),
        stage(
            "clip",
            "train the bi-encoder: pictures and captions to vectors",
            pictures__folder=pictures,
            tokenizer=made("tokenizer"),
        ),
        stage(
            "shards",
            "tokenise documents and their vectors into shards",
            pictures__folder=pictures,
            tokenizer=made("tokenizer"),
            image_tokenizer=made("vqgan"),
            embedder=made("clip"),
        ),
        stage(
            "retrieve",
            "find every document's neighbours and join them",
            shards=made("shards"),
        ),
        stage(
            "pretrain",
            "retrieval-augmented pretraining, causal-masked",
            shards=made("retrieve"),
        ),
        stage(
            "sft",
            "instruction tuning: the same step on a mixture of tasks",
            shards=made("retrieve"),
            init_from=made("pretrain"),
        ),
        *enlarging,
        Stage(
            "generate",
            f"configs/generate.py:{preset}",
            {"model": made("sft"), "requests": made(_REQUESTS), **upscaler},
            "a few requests to pictures and text on disk",
            before=lambda: write_requests(root / _REQUESTS, pathlib.Path(pictures)),
        ),
        stage(
            "evaluate",
            "draw, caption, answer, edit, infill, and measure it",
            model=made("sft"),
            pictures__folder=pictures,
        ),
    ]


def _enlarging(root: pathlib.Path, preset: str) -> list[Stage]:
    """The stages that make drawings of 64 pixels large; `quick` leaves them out.

    They need pictures of 256 pixels, which the built-in world draws and a person's
    folder may not have.
    """
    if preset not in _LARGE_ROWS:
        return []
    rows = {"num_train": _LARGE_ROWS[preset], "num_validation": 60, "num_test": 8}
    plain = {"edit_share": 0.0, "map_share": 0.0}  # pictures alone
    return [
        Stage(
            _LARGE,
            f"configs/scenes.py:{preset}",
            {
                "world.image_size": 256,
                **{f"rows.{name}": value for name, value in (rows | plain).items()},
            },
            "draw the same world four times as large",
        ),
        Stage(
            _ENLARGING,
            f"configs/super_resolution.py:{preset}",
            {"pictures.folder": str(root / _LARGE), "tokenizer": str(root / "vqgan")},
            "train what enlarges drawings, on what the image tokenizer draws",
        ),
    ]


def write_requests(path: pathlib.Path, pictures: pathlib.Path) -> None:
    """Writes a file of requests about the first held-out pictures.

    Args:
      path: The JSONL file; `configs/generate.py` says what a line may hold.
      pictures: The folder of pictures; what is annotated there is asked for.
    """
    config = splits.SplitConfig(num_validation=0, num_test=_NUM_ASKED)
    rows = splits.read(pictures, splits.TEST, config, Refusals())
    lines = []
    for row in itertools.islice(rows, _NUM_ASKED):
        picture = str(row.path.absolute())
        lines.append({"kind": "draw", "text": row.text, "n": 2})
        lines.append({"kind": "draw", "text": row.text, "retrieve": 2})
        lines.append({"kind": "caption", "picture": picture})
        for question in row.columns.get("questions", ())[:1]:
            asked = question["question"]
            lines.append({"kind": "answer", "picture": picture, "text": asked})
        if "edit" in row.columns:
            asked = row.columns["edit"]["instruction"]
            lines.append({"kind": "edit", "picture": picture, "text": asked})
        for box in row.columns.get("boxes", ())[:1]:
            asked = {"text": row.text, "box": box["box"]}
            lines.append({"kind": "infill", "picture": picture, **asked})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    storage.write_bytes(path, text.encode())


def _print_table(metrics: dict[str, float]) -> None:
    """Prints every number beside what guessing gives."""
    print(f"\n{'':28}{'measured':>12}{'guessing':>12}")
    for name, value in metrics.items():
        if name.endswith("_guess"):
            continue
        guess = metrics.get(f"{name}_guess")
        beside = "" if guess is None else f"{page.number(guess):>12}"
        print(f"{name:28}{page.number(value):>12}{beside}")
