"""A checkpoint writes long captions for a set of shards: a new set, mixable by weight.

    recaptioned/             the new set: the same pictures, what the model wrote
    progress/train-00003.json a finished shard, of as many documents as it has

Every record says that it is synthetic, by which checkpoint, and where its picture comes
from: `source: synthetic (1f3a9c...) of coco`. The originals stay as they are; a training
config mixes both (`mixture.folders=recaptioned=...`). Of several captions the bi-encoder
picks the one nearest to the picture. An interrupted job goes on after the last shard; on
a pod every host writes a share of the shards.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
import tqdm

from cm3leon_jax import api, storage
from cm3leon_jax.data import hosts, shards
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.identity import Written
from cm3leon_jax.data.record import NO_NEIGHBORS, Record
from cm3leon_jax.decoding import engine, grammar, prompts
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.jobs import folder
from cm3leon_jax.tasks import caption

SET = "recaptioned"
SYNTHETIC = "synthetic"
_PICTURE = np.zeros((1, 1, 3), np.uint8)  # its place; the codes are given


@dataclasses.dataclass(frozen=True)
class _Job:
    config: ml_collections.ConfigDict
    model: api.Model
    root: pathlib.Path

    def mark(self, split: str, index: int) -> pathlib.Path:
        return self.root / "progress" / f"{split}-{index:05d}.json"


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes the new set, shard by shard.

    Raises:
      FileNotFoundError: If model or shards are missing.
      ValueError: If the model has other tokenizers than the shards, a template is
        unknown, or several captions are wanted and nothing can pick one.
    """
    if config.template not in caption.LONG_TEMPLATES:
        raise ValueError(
            f"template {config.template!r} is none that tuning has; known:"
            f" {'; '.join(caption.LONG_TEMPLATES)}"
        )
    if not folder.start(config, workdir):
        return
    mine = Hosts.here()
    sizes = config.shapes.to_dict().items()
    shapes: dict[str, Any] = {name: tuple(several) for name, several in sizes}
    model = api.load(config.model, shapes=engine.Shapes(**shapes))
    if config.num_samples > 1 and model.embed_text is None:
        raise ValueError(
            f"num_samples={config.num_samples} need a bi-encoder that picks one; make"
            " the shards with an embedder, or take 1"
        )
    job = _Job(config, model, pathlib.Path(workdir))
    known = shards.splits(config.source)
    sources = {
        split: shards.open(config.source, split)
        for split in config.splits
        if split in known
    }
    if not sources:
        raise ValueError(f"{config.source} has none of the splits {config.splits}")
    info = next(iter(sources.values())).info
    if info.vocab != model.writer.vocab:
        raise ValueError(
            f"{config.source} was made with another vocabulary than {config.model} was"
            " trained with; write the shards with its tokenizers"
        )
    units = [
        (split, index, start)
        for split, source in sources.items()
        for index, start in enumerate(range(0, len(source), config.rows_per_shard))
    ]
    for number in tqdm.tqdm(mine.share(len(units)), unit=" shards", desc="recaption"):
        split, index, start = units[number]
        if not job.mark(split, index).exists():
            stop = min(start + config.rows_per_shard, len(sources[split]))
            _write(job, sources[split], split, index, range(start, stop))
    if mine.is_first:
        hosts.wait([job.mark(split, index) for split, index, _ in units], "shards")
        _finish(job, info, units)


def _write(
    job: _Job, source: shards.Source, split: str, index: int, places: range
) -> None:
    """Writes one shard and its mark."""
    records = [one for one in source.records(places) if one is not None]
    pairs = [one for one in records if _picture_ids(one, job) is not None]
    made = recaption(pairs, job.model, job.config, seed=index)
    written = shards.write_shard(job.root / SET, split, index, made)
    skipped = {"without_one_picture": len(places) - written.records}
    storage.write_json(job.mark(split, index), written.to_json() | skipped)


def recaption(
    records: Sequence[Record],
    model: api.Model,
    config: ml_collections.ConfigDict,
    *,
    seed: int,
) -> list[Record]:
    """Returns records of the same pictures with captions that the model wrote.

    Args:
      records: Documents with one picture each.
      model: With its tokenizers.
      config: Of the job: template, samples, sampling, longest caption.
      seed: Of the shard.
    """
    if not records:
        return []
    writer, count = model.writer, config.num_samples
    sampling = Sampling(**config.sampling.to_dict())
    plan = prompts.text_plan(config.max_text, writer.num_text_pieces, writer.vocab)
    requests = [
        prompts.Request(
            (_prompt(record, model, config.template),),
            plan,
            seed=config.seed + (seed * config.rows_per_shard + place) * count + sample,
            sampling=sampling,
        )
        for place, record in enumerate(records)
        for sample in range(count)
    ]
    answers = engine.generate(writer.model, requests, writer.vocab, writer.shapes)
    texts = [
        caption.parse(writer.decode_text(grammar.split(plan, ids)[0].tolist()))
        for ids in answers
    ]
    chosen = [texts[start : start + count] for start in range(0, len(texts), count)]
    best = [
        some[_best(some, one, model)] for some, one in zip(chosen, records, strict=True)
    ]
    vectors = None
    if model.embed_text is not None:
        vectors = np.asarray(model.embed_text(best), np.float16)
    return [
        _record(one, text, model, None if vectors is None else vectors[place])
        for place, (one, text) in enumerate(zip(records, best, strict=True))
        if text  # nothing was written: the original stays alone
    ]


def _best(texts: Sequence[str], record: Record, model: api.Model) -> int:
    """The caption whose vector is nearest to the picture's; the first without vectors."""
    if len(texts) == 1 or model.embed_text is None or not len(record.image_vector):
        return 0
    near = np.asarray(model.embed_text(texts)) @ record.image_vector.astype(np.float32)
    return int(near.argmax())


def _picture_ids(record: Record, job: _Job) -> np.ndarray | None:
    """The ids of a document's only picture; None if it has none or several."""
    segments = record.document(job.model.writer.vocab).segments
    found = [one.ids for one in segments if one.modality == Modality.IMAGE]
    return found[0] if len(found) == 1 else None


def _codes(record: Record, model: api.Model) -> np.ndarray:
    vocab = model.writer.vocab
    segments = record.document(vocab).segments
    ids = next(one.ids for one in segments if one.modality == Modality.IMAGE)
    return vocab.codes(ids)


def _prompt(record: Record, model: api.Model, template: str) -> np.ndarray:
    """The test-time prompt of a long caption, the picture by its codes."""
    writer = model.writer
    parts = caption.asked(template, _PICTURE)
    codes = [_codes(record, model)]
    asked = prompts.with_hole(parts, writer.encode_text, codes, writer.vocab)
    return prompts.at_hole(asked, writer.vocab)


def _record(
    record: Record, text: str, model: api.Model, vector: np.ndarray | None
) -> Record:
    """The record with another text, which says where text and picture come from."""
    vocab = model.writer.vocab
    ids = np.asarray(model.writer.encode_text(text), np.int32)
    segments = (
        Segment(Modality.TEXT, ids),
        Segment(Modality.IMAGE, vocab.image_ids(_codes(record, model))),
    )
    empty = np.zeros(0, np.float16)
    return dataclasses.replace(
        record,
        id=f"{record.id}#{SYNTHETIC}",
        tokens=documents.to_ids(Document(segments), vocab).astype(np.uint16),
        modality=np.array([Modality.TEXT, Modality.IMAGE], np.uint8),
        target=None,
        task="pair",
        source=f"{SYNTHETIC} ({model.digest[:12]}) of {record.source or 'unknown'}",
        text_vector=empty if vector is None else vector,
        query_text_vector=empty,
        query_image_vector=empty,
        neighbors=NO_NEIGHBORS,
    )


def _finish(
    job: _Job, info: shards.SetInfo, units: Sequence[tuple[str, int, int]]
) -> None:
    """Describes the set when all its shards are there."""
    marks: dict[str, list[dict[str, Any]]] = {}
    for split, index, _ in units:
        marks.setdefault(split, []).append(storage.read_json(job.mark(split, index)))
    written = {
        split: [Written.from_json(one) for one in some] for split, some in marks.items()
    }
    shards.finish(job.root / SET, dataclasses.replace(info, bank=""), written)
    counts = {
        split: sum(one.records for one in some) for split, some in written.items()
    }
    skipped = sum(one["without_one_picture"] for some in marks.values() for one in some)
    folder.finish(
        str(job.root),
        {"records": counts, "left_out": skipped, "checkpoint": job.model.digest},
    )
