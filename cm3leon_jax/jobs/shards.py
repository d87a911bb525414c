"""Pictures and text -> shards of tokenised documents with their vectors.

    pairs/                    a set: documents as pretraining sees them, with vectors
    caption/ vqa/ edit/ ...   a set a task
    progress/train-00003.json a finished shard: counts and refusals
    vocab.json                the joint vocabulary
    refusals.json             what was not taken, and why

The rows of every split are cut into shards of `rows_per_shard`; each shard of all sets
is written before its mark in `progress/`, and an interrupted job goes on after the last
mark.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
from tqdm import tqdm

from cm3leon_jax import storage
from cm3leon_jax.data import pictures, shards, splits, tokenise
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.data.sources import folder as source
from cm3leon_jax.data.tokenise import TokeniseConfig, Tools
from cm3leon_jax.jobs import folder
from cm3leon_jax.vocab import Vocab

_MAX_PRINTED = 20


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes every set that is not yet whole."""
    if not folder.start(config, workdir):
        return
    tools, info, image_size = load_tools(config)
    storage.write_json(pathlib.Path(workdir) / "vocab.json", info.vocab.to_json())
    job = Job(
        root=pathlib.Path(workdir),
        pictures=pathlib.Path(config.pictures.folder),
        tools=tools,
        info=info,
        splits=splits.SplitConfig(**config.splits),
        picture_config=pictures.PictureConfig(image_size=image_size),
        tokenise=TokeniseConfig(**config.tokenise.to_dict()),
        rows_per_shard=config.rows_per_shard,
        num_threads=config.num_threads,
    )
    folder.finish(workdir, write(job))


def load_tools(config: ml_collections.ConfigDict) -> tuple[Tools, SetInfo, int]:
    """Reads the trained parts; the vocabulary follows from them."""
    # Imported here because they load JAX, which nothing else in this job needs.
    from cm3leon_jax.embedders import clip
    from cm3leon_jax.tokenizers import image, text

    texts = text.TextTokenizer.load(config.tokenizer)
    images = image.ImageTokenizer.load(config.image_tokenizer)
    embedder = clip.ClipEmbedder.load(config.embedder) if config.embedder else None
    vocab = Vocab(
        text_size=texts.vocab_size,
        image_size=images.codebook_size,
        codes_per_image=images.codes_per_image,
        **config.vocab,
    )
    info = SetInfo(
        vocab,
        text_tokenizer=texts.digest,
        image_tokenizer=images.digest,
        embedder=embedder.digest if embedder else "",
    )
    return Tools(vocab, texts.encode, images.encode, embedder), info, images.image_size


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that the shards of a folder are made of.

    Attributes:
      root: Where they are written.
      pictures: The folder of captioned pictures.
      tools: Tokenizers and embedder.
      info: What is kept with every set.
      splits: How the folder is divided.
      picture_config: What pictures are accepted.
      tokenise: What is made of a row.
      rows_per_shard: Rows that become one shard of every set.
      num_threads: Threads that decode pictures.
    """

    root: pathlib.Path
    pictures: pathlib.Path
    tools: Tools
    info: SetInfo
    splits: splits.SplitConfig
    picture_config: pictures.PictureConfig
    tokenise: TokeniseConfig
    rows_per_shard: int
    num_threads: int


def write(job: Job) -> dict[str, Any]:
    """Writes all shards and the sets' descriptions; returns a summary."""
    refusals, marks = Refusals(), {}
    names = splits.names(job.pictures)
    for split in names:
        counted = Refusals()
        rows = list(splits.read(job.pictures, split, job.splits, counted))
        if splits.has_folders(job.pictures) or split == names[0]:
            refusals.add(counted.to_json())  # of rows whose picture was not looked at
        marks[split] = _write_split(job, split, rows)
    for mark in (mark for some in marks.values() for mark in some):
        refusals.add(mark["refusals"])
    summary = _finish(job, marks)
    storage.write_json(job.root / "refusals.json", refusals.to_json())
    print(refusals)
    for line in refusals.lines[:_MAX_PRINTED]:
        print(f"  refused {line}")
    return {**summary, "refused": refusals.refused}


def _write_split(
    job: Job, split: str, rows: Sequence[source.Row]
) -> list[dict[str, Any]]:
    """Writes the shards of a split that are missing; returns all their marks."""
    marks = []
    starts = range(0, len(rows), job.rows_per_shard)
    with tqdm(total=len(rows), desc=f"shards {split}", unit="row") as bar:
        for index, start in enumerate(starts):
            chunk = rows[start : start + job.rows_per_shard]
            mark_path = job.root / "progress" / f"{split}-{index:05d}.json"
            if not mark_path.exists():
                storage.write_json(mark_path, _write_chunk(job, split, index, chunk))
            marks.append(storage.read_json(mark_path))
            bar.update(len(chunk))
    return marks


def _write_chunk(
    job: Job, split: str, index: int, rows: Sequence[source.Row]
) -> dict[str, Any]:
    """Writes shard `index` of every set; returns its mark."""
    refusals = Refusals()
    loaded = tokenise.load(
        rows, job.picture_config, refusals, num_threads=job.num_threads
    )
    made = tokenise.records(
        loaded,
        job.tools,
        job.tokenise,
        with_tasks=split in (splits.TRAIN, splits.VALIDATION),
        with_query=split == splits.TRAIN,
    )
    sets = {}
    for name, records in made.items():
        number, size = shards.write_shard(job.root / name, split, index, records)
        lengths = [len(record.tokens) for record in records]
        sets[name] = {
            "records": number,
            "bytes": size,
            "tokens": sum(lengths),
            "longest": max(lengths, default=0),
        }
    return {"sets": sets, "refusals": refusals.to_json()}


def _finish(job: Job, marks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Describes the sets that hold anything; returns their sizes."""
    summary: dict[str, Any] = {}
    names = {name: None for some in marks.values() for m in some for name in m["sets"]}
    for name in names:
        written, sizes = {}, {}
        for split, some in marks.items():
            parts = [mark["sets"][name] for mark in some if name in mark["sets"]]
            if not sum(part["records"] for part in parts):
                continue
            written[split] = [(part["records"], part["bytes"]) for part in parts]
            tokens, records = (
                sum(part[key] for part in parts) for key in ("tokens", "records")
            )
            sizes[split] = {
                "records": records,
                "tokens_per_record": round(tokens / records, 1),
                "longest": max(part["longest"] for part in parts),
            }
        if written:
            shards.finish(job.root / name, job.info, written)
            summary[name] = sizes
    return {"sets": summary, "vocab_size": job.info.vocab.size}
