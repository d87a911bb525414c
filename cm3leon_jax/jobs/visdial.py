"""NDCG on Visual Dialog, by the job `evaluate` with `configs/benchmark.py:visdial`.

parts/00003.json   scores of the candidates of some turns, as they are done
"""

from __future__ import annotations

import pathlib
from typing import Any

import ml_collections
import numpy as np
import tqdm

from cm3leon_jax import api, storage
from cm3leon_jax.data import hosts
from cm3leon_jax.data import pictures as picture_files
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.sources import visdial
from cm3leon_jax.evals import dialog, ranking
from cm3leon_jax.jobs import folder, models, resumption
from cm3leon_jax.reports import benchmark as report

NAME = "visdial"


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Scores every turn that has relevances, and ranks.

    Raises:
      FileNotFoundError: If model or data are missing.
      ValueError: If there are fewer turns than asked for.
    """
    asked = config.benchmark
    turns = visdial.read(pathlib.Path(asked.folder))
    count = asked.num_cases or len(turns)
    if count > len(turns):
        raise ValueError(
            f"{asked.folder} has {len(turns)} turns, num_cases={count} were asked for;"
            " take fewer, or 0 for all"
        )
    if not folder.start(config, workdir):
        return
    mine = Hosts.here()
    model = models.load(config)
    rule = picture_files.PictureConfig(image_size=model.writer.image_size)
    size = asked.cases_per_part
    chunks = [turns[:count][start : start + size] for start in range(0, count, size)]
    places = [
        pathlib.Path(workdir) / "parts" / f"{n:05d}.json" for n in range(len(chunks))
    ]
    for number in tqdm.tqdm(mine.share(len(chunks)), unit=" parts"):
        if not places[number].exists():
            some = chunks[number]
            pictures = [picture_files.load(turn.picture, rule) for turn in some]
            found = dialog.scores(model.writer, some, np.stack(pictures))
            storage.write_json(places[number], [one.tolist() for one in found])
    if not mine.is_first:
        return
    hosts.wait(places, "parts")
    scores = [one for place in places for one in storage.read_json(place)]
    relevance = [turn.relevance for turn in turns[:count]]
    numbers = {
        "num_cases": len(scores),
        "ndcg": ranking.ndcg(np.array(scores), np.array(relevance)),
    }
    settings = _settings(asked, model)
    paper = asked.paper.to_dict()
    lines = [
        {"key": turn.key, "asked": turn.question, "written": _first(turn, row)}
        | {"people": [_right(turn)]}
        for turn, row in zip(turns[:count], scores, strict=True)
    ]
    page = pathlib.Path(workdir) / "results.html"
    report.write(page, asked.name, numbers, paper, settings, lines)
    print(report.text(asked.name, numbers, paper))
    folder.finish(workdir, {"numbers": numbers, "settings": settings})


def _settings(asked: ml_collections.ConfigDict, model: api.Model) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        **asked.to_dict(),
        "checkpoint": model.digest,
        "image_size": model.writer.image_size,
        "score": "mean log-probability of the answer's ids and the end of the infill",
        "versions": resumption.versions(),
    }


def _first(turn: visdial.Turn, scores: list[float]) -> str:
    return turn.options[int(np.argmax(scores))]


def _right(turn: visdial.Turn) -> str:
    return turn.options[int(np.argmax(turn.relevance))]
