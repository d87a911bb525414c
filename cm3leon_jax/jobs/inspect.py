"""Shards and a training batch as pages, before chips are spent.

    documents.html    documents of a split: pictures, words, provenance
    neighbours.html   a contact sheet: queries with their neighbours, scores, sources
    batch.html        rows of the first training batch: spans, segments, weights, and
                      what the loader counted (neighbours left out, pictures cut)

Pictures are what the image tokenizer makes of the codes: what the model will see. All
shards are read and compared with their digests first (`verify`).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from cm3leon_jax import cpu
from cm3leon_jax.data import joining, pipeline, shards, trained
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.shards import Source
from cm3leon_jax.data.streams import Counts, LoaderConfig
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.jobs import folder
from cm3leon_jax.reports import inspection, page
from cm3leon_jax.tokenizers import image, text


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes the pages.

    Raises:
      FileNotFoundError: If shards or tokenizers are missing.
      ValueError: If a shard is not the one that was written, or the tokenizers are not
        those that made the shards.
    """
    if not folder.start(config, workdir):
        return
    cpu.use_devices(config.num_cpu_devices)
    root = pathlib.Path(workdir)
    verified = _verify(pathlib.Path(config.shards)) if config.verify else {}
    source = shards.open(pathlib.Path(config.shards) / config.set, config.split)
    reader = _reader(config, source)
    shown = source.records(_spread(len(source), config.num_documents))
    documents = [record for record in shown if record is not None]
    _write_documents(root / "documents.html", source, documents, reader)
    summary: dict[str, Any] = {"documents": len(documents), "verified_bytes": verified}
    if any(len(record.neighbors.ids) for record in documents):
        _write_neighbors(root / "neighbours.html", source, documents, reader)
        counts = [len(record.neighbors.ids) for record in documents]
        summary["neighbors_per_document"] = float(np.mean(counts))
    batch, counts = _batch(config)
    summary["batch"] = inspection.facts(batch, reader.vocab)
    summary["loader"] = dataclasses.asdict(counts)
    facts = summary["batch"] | {k: float(n) for k, n in summary["loader"].items()}
    _write_batch(root / "batch.html", batch, reader, config.num_rows, facts)
    print(f"pages: {', '.join(sorted(path.name for path in root.glob('*.html')))}")
    folder.finish(workdir, summary)


def _verify(folder: pathlib.Path) -> dict[str, int]:
    """Compares all shards with their digests; returns the bytes of every set."""
    sets = sorted(path.parent for path in folder.glob("*/dataset_info.json"))
    found = {path.name: shards.verify(path) for path in sets}
    for name, size in found.items():
        print(f"{name}: {f'{size:,} bytes as written' if size else 'no digests'}")
    return found


def _reader(config: ml_collections.ConfigDict, source: Source) -> inspection.Reader:
    """The tokenizers that the config names, or those that the shards were made with."""
    names = [config.tokenizer, config.image_tokenizer]
    if not all(names):
        found = trained.tokenizers(config.shards)
        names = [name or str(other) for name, other in zip(names, found, strict=True)]
    texts, images = (
        text.load(names[0]),
        image.ImageTokenizer.load(names[1]),
    )
    made_by = (source.info.text_tokenizer, source.info.image_tokenizer)
    if (texts.digest, images.digest) != made_by:
        raise ValueError(
            f"{names[0]} and {names[1]} are not the tokenizers that made"
            f" {source.folder}; name those"
        )
    return inspection.Reader(source.info.vocab, texts.decode, images.decode)


def _spread(length: int, number: int) -> list[int]:
    """Places all over a split."""
    return np.unique(
        np.linspace(0, length - 1, min(length, number)).astype(int)
    ).tolist()


def _batch(config: ml_collections.ConfigDict) -> tuple[Batch, Counts]:
    """The first training batch of the loader, or that many rows of it; what it met."""
    fields = config.loader.to_dict()
    fields["cm3"] = cm3.CM3Config(**fields["cm3"])
    fields["weights"] = packing.LossWeights(**fields["weights"])
    # The first rows of the first streams are those of the whole batch.
    loader = LoaderConfig(**fields)
    root = pathlib.Path(config.shards)
    specs = [
        pipeline.SetSpec(
            str(root / name), "train", weight, name in config.neighbor_sets
        )
        for name, weight in config.sets.items()
        if weight
    ]
    hosts = max(1, loader.num_streams // max(1, config.num_rows))
    while loader.num_streams % hosts:
        hosts -= 1
    dataset = pipeline.load(specs, loader, num_hosts=hosts, prefetch=0)
    assert isinstance(dataset, pipeline.Batches)
    return next(iter(dataset)), dataset.counts


def _write_documents(
    path: pathlib.Path,
    source: Source,
    documents: Sequence[Record],
    reader: inspection.Reader,
) -> None:
    pictures = reader.pictures(record.tokens.astype(np.int32) for record in documents)
    cards = [
        inspection.document(record.tokens.astype(np.int32), reader, pictures)
        + inspection.provenance(_known(record))
        for record in documents
    ]
    title = f"{source.name}, split {source.split}"
    about = f"{len(documents)} of {len(source)} documents, evenly spread."
    parts = [inspection.STYLE, page.heading(title, about, 1), page.cards(cards, 300)]
    page.write(path, title, parts)


def _write_neighbors(
    path: pathlib.Path,
    source: Source,
    documents: Sequence[Record],
    reader: inspection.Reader,
) -> None:
    """Queries with their neighbours; provenance is read from the bank."""
    ids = np.concatenate([record.neighbors.ids for record in documents])
    bank = joining.Bank(source)
    filled = [record for record in bank.fill(documents) if record is not None]
    try:
        found: Mapping[int, Record] = bank.open().records(ids)
    except FileNotFoundError:
        found = {}  # joined before the bank was written down: no provenance
    every = [tokens for record in filled for tokens in record.neighbors.tokens]
    shown = [record.tokens for record in filled] + every
    pictures = reader.pictures(tokens.astype(np.int32) for tokens in shown)
    parts = [
        inspection.STYLE,
        page.heading(
            "Queries and their neighbours",
            "Left the query, beside it what it finds: by its picture or by its text,"
            " with the inner product, the number in the bank and the source.",
            1,
        ),
    ]
    for record in filled:
        query = inspection.document(record.tokens.astype(np.int32), reader, pictures)
        cells = [f"{query}{inspection.provenance(_known(record))}"]
        near = record.neighbors
        for slot, tokens in enumerate(near.tokens):
            number = int(near.ids[slot])
            how = "by picture" if near.by_image[slot] else "by text"
            values = [("", f"{how} {near.scores[slot]:.3f}"), ("bank", str(number))]
            values += _known(found[number]) if number in found else []
            one = inspection.document(tokens.astype(np.int32), reader, pictures)
            cells.append(f"{one}{inspection.provenance(values)}")
        parts.append(page.cards(cells, 180))
    page.write(path, "Queries and their neighbours", parts)


def _write_batch(
    path: pathlib.Path,
    batch: Batch,
    reader: inspection.Reader,
    num_rows: int,
    facts: dict[str, float],
) -> None:
    rows = [
        [
            (ids, weights, *cm3.find_spans(ids, reader.vocab))
            for ids, weights in inspection.sequences(batch, row)
        ]
        for row in range(min(num_rows, len(batch.tokens_BL)))
    ]
    pictures = reader.pictures(ids for row in rows for _, _, ids, _ in row)
    parts = [
        inspection.STYLE,
        page.heading(
            "A training batch",
            "Each card is one segment of a row: what sees only itself. Marked words and"
            " dark codes are hidden and asked for at the end. Below, the ids as they"
            " are read; the factor is the weight of their loss, if not 1.",
            1,
        ),
        inspection.counted(facts),
    ]
    for number, row in enumerate(rows):
        used = sum(len(ids) - 1 for ids, _, _, _ in row)
        about = f"{len(row)} segments, {used} of {batch.tokens_BL.shape[1]} places"
        cards = [
            inspection.document(restored, reader, pictures, spans, size=72)
            + inspection.strip(ids, weights, reader)
            for ids, weights, restored, spans in row
        ]
        parts += [page.heading(f"Row {number}", about), page.cards(cards, 480)]
    page.write(path, "A training batch", parts)


def _known(record: Record) -> list[tuple[str, str]]:
    """What a record says of where it comes from."""
    return [
        ("", record.id),
        ("task", record.task if record.task != "pair" else ""),
        ("source", record.source),
        ("licence", record.licence),
        ("", record.url),
    ]
