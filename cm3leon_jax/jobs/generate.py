"""Requests to pictures and text on disk, each with its provenance.

    results/000003_000.json  what was asked, what came out, from what
    results/000003_000.png   the picture, if it is one; its metadata hold the same
    results/000003_000_1.png a picture among several turns: the second
    results/000003_000_large.png   the same enlarged, if the config names an upscaler
    results.jsonl           all of them in order, written last
    results.html            the same as a page
    failed.jsonl            requests that could not be fulfilled, with the reason
    parts/00000-of-00004.json   of several hosts, one that is done: its failures

A request is a line of JSON, or the config's `prompt`. Its fields are those of `Request`;
what it does not say, the config says. A request with a result is not run again, so an
interrupted job continues; one that fails is listed, and the others go on. The devices of
a host share requests, and the model if it is large (`mesh`); the hosts of a pod have a
share of the lines each.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tqdm
from PIL import Image

from cm3leon_jax import api, asks, sharding, storage
from cm3leon_jax.data import hosts, pictures
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.refusals import RefusedError
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.jobs import folder
from cm3leon_jax.reports import provenance
from cm3leon_jax.reports import results as reports
from cm3leon_jax.upscalers import rrdb

_MAX_LINE_BYTES = 1_000_000
_MOST = 2**31 - 1
_RANGES = {  # of whole numbers; what the model has room for is checked later
    "n": (1, _MOST),
    "seed": (0, _MOST),
    "retrieve": (0, 64),
    "max_text": (1, _MOST),
    "num_beams": (1, _MOST),
    "best_of": (1, asks.MAX_CANDIDATES),
}
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """One line of a file of requests.

    Attributes:
      kind: One of `api.KINDS`.
      text: The caption, question, instruction or text with `<mask>`.
      picture: File of the picture, relative to the file of requests; or empty.
      box: x0, y0, x1, y1 in pixels, for `infill`; or empty.
      mask: File of a picture, for `infill`: what is not black is drawn anew.
      boxes: [name, x0, y0, x1, y1] in pixels, for `layout`; or empty.
      choices: For `scienceqa`: what to choose from; or empty.
      hint: For `scienceqa`: what is to be known beside the question.
      n: Results; their seeds are `seed`, `seed + 1`, ...
      seed: Of the first.
      retrieve: Documents that are looked up.
      keep_documents: Whether the unconditional stream has them too.
      max_text: Most text ids that are written.
      sampling: Fields of `Sampling` that differ from the config's.
      parts: For `continue`: texts, and {"picture": file} each.
      turns: For `continue`: "text" and "picture".
      num_beams: Beginnings that a text is searched with; 1 draws it.
      best_of: Pictures of which the bi-encoder picks one.
      mixed_with: Fields of `Sampling` of every second of them; or empty.
    """

    kind: str
    text: str
    picture: str
    box: Sequence[int]
    boxes: Sequence[Sequence[Any]]
    n: int
    seed: int
    retrieve: int
    keep_documents: bool
    max_text: int
    sampling: Mapping[str, float]
    mask: str = ""
    choices: Sequence[str] = ()
    hint: str = ""
    parts: Sequence[str | Mapping[str, str]] = ()
    turns: Sequence[str] = ()
    num_beams: int = 1
    best_of: int = 1
    mixed_with: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("kind", "text", "picture", "mask", "hint"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a string")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"{name}={value!r} must be a whole number from {least} to {most}"
                )


@dataclasses.dataclass(frozen=True)
class _Job:
    """One result that is wanted, under its name; or why it cannot be had."""

    name: str
    line: Mapping[str, Any]
    ask: api.Ask | None = None
    error: str = ""


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Fulfils every request that has no result yet.

    Raises:
      FileNotFoundError: If there is no model or no file of requests.
      ValueError: If nothing is asked for, or nothing could be fulfilled.
    """
    root = pathlib.Path(workdir)
    if folder.start(config, workdir):
        made = _make(config, root)
        if made is None:
            return
        folder.finish(workdir, made)
    if config.show:
        for line in (root / "results.jsonl").read_text().splitlines():
            print(_line(json.loads(line), root / "results"))
        print(f"\npage: {root / 'results.html'}")


def _make(
    config: ml_collections.ConfigDict, root: pathlib.Path
) -> dict[str, int] | None:
    """Fulfils the requests; the first host writes lists and page: how many there are."""
    own = Hosts.here()
    lines = list(_lines(config))
    if not lines:
        raise ValueError(f"{config.requests} holds no requests; write one a line")
    mesh = sharding.MeshConfig(**config.mesh.to_dict())
    model = api.load(config.model, precision=config.precision, mesh=mesh)
    upscaler = rrdb.Upscaler.load(config.upscaler) if config.upscaler else None
    results = root / "results"
    failed: list[dict[str, Any]] = []
    todo = []
    share = own.share(len(lines))
    with tqdm.tqdm(total=len(share), unit=" requests", desc="generate") as bar:
        for job in _jobs(lines, share, config, model):
            if job.ask is None:
                failed.append({"name": job.name, "reason": job.error, **job.line})
                _LOGGER.warning("request %s failed: %s", job.name, job.error)
            elif not (results / f"{job.name}.json").exists():
                todo.append(job)
            if len(todo) >= config.requests_at_once:
                _fulfil(todo, model, upscaler, results)
                todo = []
            bar.update(job.name.endswith("_000"))
        if todo:
            _fulfil(todo, model, upscaler, results)
    failed = _together(own, failed, root)
    if not own.is_first:
        return None
    made = [storage.read_json(path) for path in sorted(results.glob("*.json"))]
    _write_lines(root / "results.jsonl", made)
    _write_lines(root / "failed.jsonl", failed)
    if not made:
        raise ValueError(
            f"none of {len(lines)} requests could be fulfilled; the first:"
            f" {failed[0]['reason']}"
        )
    shown = [_result(record, results, config, model) for record in made]
    reports.write(root / "results.html", shown)
    return {"num_results": len(made), "num_failed": len(failed)}


def _lines(config: ml_collections.ConfigDict) -> Iterator[Mapping[str, Any] | str]:
    """The requests: JSON objects, or the reason why a line is none."""
    if bool(config.prompt) == bool(config.requests):
        raise ValueError("set either config.prompt or config.requests, a JSONL file")
    if config.prompt:
        yield {"text": config.prompt}
        return
    path = pathlib.Path(config.requests)
    if not path.exists():
        raise FileNotFoundError(f"no file of requests {path}")
    with path.open("rb") as file:
        for data in file:
            if not data.strip():
                continue
            try:
                if len(data) > _MAX_LINE_BYTES:
                    raise ValueError(f"a line of {len(data)} bytes")
                line = json.loads(data.decode("utf-8"))
                if not isinstance(line, dict):
                    raise ValueError("the line is no JSON object")
            except ValueError as error:  # JSON and Unicode errors are ValueErrors
                yield f"no request: {error}"
                continue
            yield line


def _together(
    own: Hosts, failed: list[dict[str, Any]], root: pathlib.Path
) -> list[dict[str, Any]]:
    """The failures of all hosts, when all are done; what others get is their own."""
    if own.count == 1:
        return failed
    parts = [
        root / "parts" / f"{index:05d}-of-{own.count:05d}.json"
        for index in range(own.count)
    ]
    storage.write_json(parts[own.index], failed)
    if not own.is_first:
        return failed
    hosts.wait(parts, "parts")
    return [each for part in parts for each in storage.read_json(part)]


def _jobs(
    lines: Sequence[Mapping[str, Any] | str],
    share: Sequence[int],
    config: ml_collections.ConfigDict,
    model: api.Model,
) -> Iterator[_Job]:
    """Every result that is wanted of a share of the lines, checked one by one."""
    for number in share:
        line, name = lines[number], f"{number:06d}"
        if isinstance(line, str):
            yield _Job(f"{name}_000", {}, error=line)
            continue
        try:
            ask, count = _ask(line, config, model.writer.image_size)
            model.check(ask)
        except (ValueError, TypeError, RefusedError) as error:
            yield _Job(f"{name}_000", line, error=str(error))
            continue
        for index in range(count):
            one = dataclasses.replace(ask, seed=ask.seed + index)
            yield _Job(f"{name}_{index:03d}", line, one)


def _ask(
    line: Mapping[str, Any], config: ml_collections.ConfigDict, image_size: int
) -> tuple[api.Ask, int]:
    """The first result that a line asks for, and how many."""
    known = [field.name for field in dataclasses.fields(Request)]
    for key in line:
        if key not in known:
            raise ValueError(f"unknown field {key!r}; {folder.nearest(key, known)}")
    request = Request(**{**config.request.to_dict(), **line})
    usual = config.sampling.to_dict()
    sampling = Sampling(**{**usual, **request.sampling})
    mixed = Sampling(**{**usual, **request.mixed_with}) if request.mixed_with else None
    read = lambda name: _picture(name, config, image_size)
    box = None
    if request.box:
        x0, y0, x1, y1 = request.box
        box = x0, y0, x1, y1
    mask = read(request.mask) if request.mask else None
    parts = [x if isinstance(x, str) else read(_file(x)) for x in request.parts]
    ask = api.Ask(
        kind=request.kind,
        text=request.text,
        picture=read(request.picture) if request.picture else None,
        box=box,
        mask=None if mask is None else np.asarray(mask.any(axis=-1)),
        boxes=tuple((name, x0, y0, x1, y1) for name, x0, y0, x1, y1 in request.boxes),
        choices=tuple(request.choices),
        hint=request.hint,
        seed=request.seed,
        retrieve=request.retrieve,
        keep_documents=request.keep_documents,
        max_text=request.max_text,
        sampling=sampling,
        parts=tuple(parts),
        turns=tuple(request.turns),
        num_beams=request.num_beams,
        best_of=request.best_of,
        mixed_with=mixed,
    )
    return ask, request.n


def _file(part: Any) -> str:
    if not isinstance(part, dict) or list(part) != ["picture"] or not part["picture"]:
        raise ValueError(f'a part is a text or {{"picture": file}}, got {part!r}')
    return part["picture"]


def _picture(
    name: str, config: ml_collections.ConfigDict, image_size: int
) -> np.ndarray:
    """A picture of a request, as the model sees it."""
    path = pathlib.Path(config.requests).parent / name
    return pictures.load(path, pictures.PictureConfig(image_size=image_size))


def _fulfil(
    jobs: Sequence[_Job],
    model: api.Model,
    upscaler: rrdb.Upscaler | None,
    results: pathlib.Path,
) -> None:
    made = model.fulfil([job.ask for job in jobs if job.ask is not None])
    for job, each in zip(jobs, made, strict=True):
        given = job.line.get("picture", "")
        record = {"name": job.name, **each.provenance, "picture": given}
        if each.text is not None:
            record["text"] = each.text
        if each.picture is not None and not each.turns:
            record["file_name"] = f"{job.name}.png"
            storage.write_bytes(
                results / record["file_name"],
                provenance.png(each.picture, each.provenance),
            )
            if upscaler:
                record |= _enlarged(job.name, each, upscaler, results)
        if each.turns:
            record["written"] = _write_turns(job.name, each, results)
        # Last: a result counts as there when its record is.
        storage.write_json(results / f"{job.name}.json", record)


def _write_turns(
    name: str, made: api.Made, results: pathlib.Path
) -> list[str | dict[str, str]]:
    """Writes the pictures among the turns; returns texts and names of files."""
    written: list[str | dict[str, str]] = []
    for number, turn in enumerate(made.turns):
        if isinstance(turn, str):
            written.append(turn)
            continue
        file_name = f"{name}_{number}.png"
        storage.write_bytes(results / file_name, provenance.png(turn, made.provenance))
        written.append({"picture": file_name})
    return written


def _enlarged(
    name: str, made: api.Made, upscaler: rrdb.Upscaler, results: pathlib.Path
) -> dict[str, Any]:
    """Writes a picture's large version; returns what its record says of it."""
    assert made.picture is not None
    more = {"upscaler": upscaler.digest, "large_file_name": f"{name}_large.png"}
    large = upscaler.enlarge(made.picture[None])[0]
    data = provenance.png(large, {**made.provenance, "upscaler": upscaler.digest})
    storage.write_bytes(results / more["large_file_name"], data)
    return more


def _result(
    record: Mapping[str, Any],
    results: pathlib.Path,
    config: ml_collections.ConfigDict,
    model: api.Model,
) -> reports.Result:
    """A result as the page shows it."""
    turns = record.get("written", [])
    first = next((x["picture"] for x in turns if not isinstance(x, str)), None)
    drawn = record.get("file_name", first)
    given, size = record["picture"], model.writer.image_size
    return reports.Result(
        kind=record["kind"],
        asked=record["prompt"],
        given=_picture(given, config, size) if given else None,
        written=record.get("text"),
        drawn=np.asarray(Image.open(results / drawn).convert("RGB")) if drawn else None,
        retrieved=[near["id"] for near in record["retrieved"]],
    )


def _line(record: Mapping[str, Any], results: pathlib.Path) -> str:
    """A result as the terminal shows it."""
    asked = " ".join(filter(None, (record["picture"], record["prompt"])))
    made = record.get("text", results / record.get("file_name", ""))
    if "written" in record:
        turns = [x if isinstance(x, str) else x["picture"] for x in record["written"]]
        made = " | ".join(turns)
    return f"{record['kind']:>12}  {asked}  ->  {made}"


def _write_lines(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    storage.write_bytes(path, "".join(lines).encode())
