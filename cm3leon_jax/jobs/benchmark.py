"""Public benchmarks: a checkpoint to the numbers that papers give, by the job `evaluate`.

    parts/00003.jsonl   what came out for some cases, as it is done
    drawn/000123.png    of a drawing benchmark, the picture that was picked
    answers.json        of a text benchmark, as evaluation servers take it
    results.html        the numbers, the paper's beside them, and samples
    done.json           {"numbers": ..., "settings": ...}: all that moves a number

Cases are shared by the hosts of a job, a part each, every host with the model on its own
devices; a part that is there is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
import numpy as np
import tqdm
from PIL import Image

from cm3leon_jax import api, storage
from cm3leon_jax.data import hosts, loading, splits
from cm3leon_jax.data import pictures as picture_files
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import Row, SourceConfig
from cm3leon_jax.decoding import rerank
from cm3leon_jax.decoding import writer as writers
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order
from cm3leon_jax.documents.document import Document
from cm3leon_jax.evals import benchmark, crowd
from cm3leon_jax.jobs import drawings, folder, models, resumption
from cm3leon_jax.reports import benchmark as report
from cm3leon_jax.tasks import pair, table

DRAWN = "drawn"
_RESIZE = "shorter side to the model's, bicubic, middle cut out"


@dataclasses.dataclass(frozen=True)
class _Job:
    """A checkpoint and what it is asked."""

    config: ml_collections.ConfigDict  # the section `benchmark`
    model: api.Model
    root: pathlib.Path
    hosts: Hosts
    refusals: Refusals

    @property
    def is_drawing(self) -> bool:
        return self.config.task == pair.NAME

    @property
    def picture_config(self) -> picture_files.PictureConfig:
        size = self.model.writer.image_size
        return picture_files.PictureConfig(image_size=size)

    def part(self, number: int) -> pathlib.Path:
        return self.root / "parts" / f"{number:05d}.jsonl"


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Measures one benchmark, going on where it was interrupted.

    Raises:
      FileNotFoundError: If model, data or weights are missing.
      ValueError: If there are fewer cases than asked for, or the setting measures
        nothing.
    """
    _check(config.benchmark)
    if not folder.start(config, workdir):
        return
    own = Hosts.here()
    model, root = models.load(config), pathlib.Path(workdir)
    job = _Job(config.benchmark, model, root, own, Refusals())
    units = _units(job)
    size = config.benchmark.cases_per_part
    chunks = [units[start : start + size] for start in range(0, len(units), size)]
    make = _draw if job.is_drawing else _write
    shots = [] if job.is_drawing else _shots(job)
    for number in tqdm.tqdm(job.hosts.share(len(chunks)), unit=" parts"):
        if not job.part(number).exists():
            lines = make(job, chunks[number], number * size, shots)
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            storage.write_bytes(job.part(number), text.encode())
    if job.hosts.is_first:
        hosts.wait([job.part(number) for number in range(len(chunks))], "parts")
        _conclude(job, [job.part(n) for n in range(len(chunks))], len(units))


def _check(config: ml_collections.ConfigDict) -> None:
    """Refuses what measures nothing, before a model is loaded."""
    if config.task == pair.NAME:
        if config.num_examples:
            raise ValueError("num_examples is for tasks of text; draw with 0")
        crowd.check_judge(
            config.num_samples,
            "the model's",
            config.inception or config.judge or "the model's",
        )
        return
    if table.get(config.task).METRIC not in benchmark.METRICS:
        raise ValueError(
            f"task {config.task!r} is measured by drawings; benchmarks are of text, or"
            f" task={pair.NAME!r}"
        )


def _units(job: _Job) -> list[list[Row]]:
    """The rows of every case: the captions of a picture, one question, one prompt."""
    config, found = job.config, {}
    for row in _rows(job, config.split, job.refusals):
        is_joined = not job.is_drawing
        key = (row.group or row.id) if is_joined and row.is_pair else row.id
        found.setdefault(key, []).append(row)
    units = list(found.values())
    count = config.num_cases or len(units)
    if len(units) < count or not units:
        raise ValueError(
            f"{config.folder} has {len(units)} cases in split {config.split!r},"
            f" num_cases={config.num_cases} were asked for; take fewer, or 0 for all"
        )
    if job.is_drawing:  # prompts by chance, not the first of the file
        order = np.random.default_rng(config.seed).permutation(len(units))
        units = [units[i] for i in order]
    return units[:count]


def _rows(job: _Job, split: str, refusals: Refusals | None = None) -> Iterator[Row]:
    """The rows of a split; a file named after it is it, though no other split is there."""
    config, refusals = job.config, refusals or Refusals()
    source = SourceConfig(**config.source.to_dict())
    found = splits.find(config.folder, source)
    named = [one for one in found if inputs.split_of(one.name) == split]
    if named and not any(one.split for one in found):
        for one in named:
            yield from inputs.rows(one, source, refusals)
        return
    how = splits.SplitConfig(**config.splits.to_dict())
    yield from splits.read(config.folder, split, how, refusals, source)


def _loaded(job: _Job, rows: Sequence[Row]) -> list[loading.Loaded]:
    """Rows with their pictures; those whose picture is refused are no cases."""
    return loading.load(rows, job.picture_config, Refusals())


def _ask(config: ml_collections.ConfigDict) -> benchmark.AskConfig:
    return benchmark.AskConfig(
        task=config.task,
        num_examples=config.num_examples,
        max_text=config.max_text,
        writing=Sampling(**config.sampling.to_dict()),
        seed=config.seed,
    )


def _shots(job: _Job) -> list[Document]:
    """Documents of the training split to choose examples in context from."""
    config = job.config
    if not config.num_examples:
        return []
    rows: list[Row] = []
    for row in _rows(job, splits.TRAIN):
        rows.append(row)
        if len(rows) == config.example_pool:
            break
    pool = benchmark.cases(_loaded(job, rows), config.task)
    return benchmark.examples(pool, job.model.writer, _ask(config))


def _write(
    job: _Job, units: Sequence[list[Row]], first: int, shots: Sequence[Document]
) -> list[dict[str, Any]]:
    """What the model writes for some cases."""
    config, writer = job.config, job.model.writer
    rows = [row for unit in units for row in unit]
    found = benchmark.cases(_loaded(job, rows), config.task, config.group)
    ask = _ask(config)
    retrieved = _retrieved(job, pictures=[case.row.picture for case in found])
    orders = []
    for index, (case, near) in enumerate(zip(found, retrieved, strict=True), first):
        chosen = benchmark.choose(shots, config.num_examples, index, config.seed)
        documents = [*near, *chosen]
        orders.append(benchmark.order(case, index, writer, ask, documents))
    results = writer.run(orders) if orders else []
    return [
        {
            "key": case.key,
            "asked": case.asked,
            "written": benchmark.parsed(config.task, result.text or ""),
            "people": list(case.people),
            "group": case.group,
            "picture": str(case.row.id),
        }
        for case, result in zip(found, results, strict=True)
    ]


def _retrieved(
    job: _Job,
    *,
    pictures: Sequence[np.ndarray] = (),
    texts: Sequence[str] = (),
) -> list[list[Document]]:
    """Documents in front of each case, by its picture or by its words."""
    count, model = job.config.num_documents, job.model
    if not count:
        return [[] for _ in (*pictures, *texts)]
    if model.bank is None or model.embed_text is None or model.embed_pictures is None:
        raise ValueError(
            f"num_documents={count}, but the model has no memory bank; take 0"
        )
    vectors = (
        model.embed_pictures(np.stack(pictures))
        if len(pictures)
        else model.embed_text(texts)
    )
    found = model.bank.find(vectors, count)
    return [[model.bank.document(each.place) for each in near] for near in found]


def _draw(
    job: _Job, units: Sequence[list[Row]], first: int, shots: Sequence[Document]
) -> list[dict[str, Any]]:
    """Draws from some captions, and keeps of each the drawing that was picked."""
    del shots
    config, model = job.config, job.model
    rows = [unit[0] for unit in units]
    texts = [row.text for row in rows]
    sampling = Sampling(**config.sampling.to_dict())
    near = _retrieved(job, texts=texts)
    orders = [
        Order(
            pair.prompt(text),
            documents=tuple(documents),
            seed=config.seed + (first + index) * config.num_samples + sample,
            sampling=sampling,
        )
        for index, (text, documents) in enumerate(zip(texts, near, strict=True))
        for sample in range(config.num_samples)
    ]
    drawn = np.stack([writers.drawn(each.picture) for each in model.writer.run(orders)])
    grouped = drawn.reshape(len(texts), config.num_samples, *drawn.shape[1:])
    best = np.zeros(len(texts), int)
    if config.num_samples > 1:
        if model.embed_text is None or model.embed_pictures is None:
            raise ValueError("num_samples above 1 need a bi-encoder that picks; take 1")
        best = rerank.best(texts, grouped, model.embed_text, model.embed_pictures)
    lines = []
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        name = f"{first + index:06d}.png"
        _save(job.root / DRAWN / name, grouped[index, best[index]])
        group = str(row.columns.get(config.group) or "") if config.group else ""
        lines.append({"key": row.id, "asked": text, "drawn": name, "group": group})
    return lines


def _save(path: pathlib.Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    Image.fromarray(picture).save(partial, "png")
    partial.replace(path)


def _conclude(job: _Job, parts: Sequence[pathlib.Path], num_asked: int) -> None:
    """Scores all parts; writes numbers, settings, answers and the page."""
    config = job.config
    lines = [json.loads(line) for path in parts for line in path.open()]
    if job.is_drawing:
        rows = lambda: _rows(job, config.split)
        numbers = drawings.measure(config, job.model, job.root / DRAWN, lines, rows)
    else:
        people = [line["people"] for line in lines]
        written, groups = (
            [line[key] for line in lines] for key in ("written", "group")
        )
        numbers = benchmark.score(config.task, people, written, groups)
        storage.write_json(job.root / "answers.json", _answers(config.task, lines))
    settings = {
        **config.to_dict(),
        "checkpoint": job.model.digest,
        "image_size": job.model.writer.image_size,
        "resize": _RESIZE,
        "cases": len(lines),
        "without_a_picture": num_asked - len(lines),
        "rows_refused": job.refusals.to_json()["by_reason"],
        "versions": resumption.versions(),
    }
    paper = dict(config.paper.to_dict())
    report.write(
        job.root / "results.html", config.name, numbers, paper, settings, lines
    )
    print(report.text(config.name, numbers, paper))
    folder.finish(str(job.root), {"numbers": numbers, "settings": _plain(settings)})


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))


def _answers(task: str, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the servers of VQA and of COCO's captions take them."""
    if table.get(task).METRIC == benchmark.CAPTIONS:
        return [{"image_id": one["key"], "caption": one["written"]} for one in lines]
    return [
        {"question_id": _number(one["key"]), "answer": one["written"]} for one in lines
    ]


def _number(key: str) -> int | str:
    return int(key) if key.isdecimal() else key
