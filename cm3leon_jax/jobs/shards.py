"""Pictures and text -> shards of tokenised documents with their vectors.

    pairs/                    a set: documents as pretraining sees them, with vectors
    caption/ vqa/ edit/ ...   a set a task
    pairs/card.md card.json   what a set is made of: the data card
    progress/input-00002.json an input (a file of the folder), listed
    progress/train-00003.json a finished shard: counts, refusals, what its files are
    vocab.json                the joint vocabulary
    refusals.json             what was not taken, and why

The rows of every split are cut into shards of `rows_per_shard`; each shard of all sets
is written before its mark in `progress/`, and an interrupted job goes on after the last
mark.

On a pod every host runs the same command on a folder that all of them see: each lists a
share of the inputs and writes a share of the shards, its chips encoding; the first
describes the sets when all marks are there. Hosts speak through the marks alone, so any
number of them writes the same bytes, and another number may go on.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import ml_collections
from tqdm import tqdm

from cm3leon_jax import storage
from cm3leon_jax.data import hosts, listing, pictures, shards, splits, tokenise
from cm3leon_jax.data.card import Card
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.identity import Written
from cm3leon_jax.data.listing import Listing, Shard, Table
from cm3leon_jax.data.loading import Loaded
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.data.sources import given, inputs
from cm3leon_jax.data.sources.inputs import Input
from cm3leon_jax.data.sources.row import Row, SourceConfig
from cm3leon_jax.data.tokenise import TokeniseConfig, Tools
from cm3leon_jax.jobs import folder
from cm3leon_jax.reports import card as card_page
from cm3leon_jax.vocab import Vocab

_MAX_PRINTED = 20


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes every set that is not yet whole."""
    if not folder.start(config, workdir):
        return
    job = make_job(config, workdir)
    summary = write(job)
    if summary is not None:
        folder.finish(workdir, summary)
    else:
        hosts.wait([job.root / folder.DONE], "descriptions")


def make_job(config: ml_collections.ConfigDict, workdir: str) -> Job:
    """Reads the tools that a config names."""
    from cm3leon_jax import cpu  # loads JAX, as `load_tools` does

    cpu.use_devices(config.num_cpu_devices)  # before anything uses JAX
    own = Hosts.here()
    tools, info, image_size = load_tools(config)
    return Job(
        root=pathlib.Path(workdir),
        pictures=pathlib.Path(config.pictures.folder),
        tools=tools,
        info=info,
        splits=splits.SplitConfig(**config.splits),
        source=SourceConfig(**config.source),
        picture_config=pictures.PictureConfig(image_size=image_size),
        tokenise=TokeniseConfig(**config.tokenise.to_dict()),
        rows_per_shard=config.rows_per_shard,
        num_threads=config.num_threads,
        hosts=own,
    )


def load_tools(config: ml_collections.ConfigDict) -> tuple[Tools, SetInfo, int]:
    """Reads the trained parts; the vocabulary follows from them.

    Raises:
      ValueError: If given vectors and the bi-encoder are of different widths.
    """
    # Imported here because they load JAX, which nothing else in this job needs.
    import jax

    from cm3leon_jax import sharding
    from cm3leon_jax.embedders import clip
    from cm3leon_jax.tokenizers import chameleon, image, text

    texts = text.load(config.tokenizer)
    rows = sharding.LocalRows() if jax.local_device_count() > 1 else None
    images = image.ImageTokenizer.load(config.image_tokenizer, rows=rows)
    embedder = None
    if config.embedder:
        embedder = clip.ClipEmbedder.load(config.embedder, rows=rows)
    ready = given.GivenVectors(config.vectors) if config.vectors else None
    if embedder and ready and embedder.dim != ready.dim:
        raise ValueError(
            f"{config.vectors} has vectors of width {ready.dim}, the bi-encoder"
            f" {config.embedder} makes {embedder.dim}; both must be of one model"
        )
    codes = (images.codebook_size, images.codes_per_image)
    if isinstance(texts, chameleon.ChameleonTokenizer):
        vocab = texts.vocab(*codes)
        print(f"{config.tokenizer}: Chameleon's vocabulary; config.vocab is not used")
    else:
        vocab = Vocab(
            texts.vocab_size, codes[0], codes_per_image=codes[1], **config.vocab
        )
    digests = [one.digest for one in (embedder, ready) if one]
    info = SetInfo(
        vocab,
        text_tokenizer=texts.digest,
        image_tokenizer=images.digest,
        embedder="+".join(digests),
    )
    tools = Tools(vocab, texts.encode, images.encode, embedder, ready)
    return tools, info, images.image_size


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
      source: How the folder is read, and what of it is taken.
      hosts: Which host this is, of how many.
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
    source: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)

    def mark(self, name: str) -> pathlib.Path:
        """Where a finished piece of work is marked."""
        return self.root / "progress" / f"{name}.json"


def write(job: Job) -> dict[str, Any] | None:
    """Writes this host's shards; on the first host, the sets' descriptions as well.

    Returns:
      A summary, on the first host.
    """
    found = splits.find(job.pictures, job.source)
    if job.hosts.is_first:
        print(f"{job.pictures}: {inputs.describe(found)}")
    places = job.hosts.share(len(found))
    for place in tqdm(places, "list", unit="input", disable=len(places) < 2):
        list_input(job, found, place)
    table = make_table(job, found)
    write_shards(job, table, table.owned(job.hosts))
    return conclude(job, found, table) if job.hosts.is_first else None


def list_input(job: Job, found: Sequence[Input], place: int) -> None:
    """Lists an input, unless it is listed already."""
    mark = job.mark(listing.name(place))
    if not mark.exists():
        listed = listing.count(found[place], job.source, job.splits)
        storage.write_json(mark, listed.to_json())


def make_table(job: Job, found: Sequence[Input]) -> Table:
    """Returns the table of all shards, when every input is listed."""
    return Table(found, _listings(job, found), job.splits, job.rows_per_shard)


def _listings(job: Job, found: Sequence[Input]) -> list[Listing]:
    marks = [job.mark(listing.name(place)) for place in range(len(found))]
    hosts.wait(marks, "listings")
    return [Listing(**storage.read_json(mark)) for mark in marks]


def write_shards(job: Job, table: Table, wanted: Sequence[Shard]) -> None:
    """Writes those of some shards that are missing, and their marks."""
    missing = [shard for shard in wanted if not job.mark(shard.name).exists()]
    total = sum(shard.stop - shard.start for shard in missing)
    with tqdm(total=total, desc="shards", unit="row") as bar:
        for shard, loaded, refusals in _loaded(job, table.rows(missing, job.source)):
            mark = _write_chunk(job, shard, loaded, refusals)
            storage.write_json(job.mark(shard.name), mark)
            bar.update(shard.stop - shard.start)


def conclude(job: Job, found: Sequence[Input], table: Table) -> dict[str, Any]:
    """Describes the sets when all shards are there; returns a summary."""
    hosts.wait([job.mark(shard.name) for shard in table.shards], "shards")
    marks = {shard: storage.read_json(job.mark(shard.name)) for shard in table.shards}
    refusals = Refusals()
    for one in _listings(job, found):
        refusals.add(one.refusals)  # of rows whose picture was not looked at
    for mark in marks.values():
        refusals.add(mark["refusals"])
    storage.write_json(job.root / "vocab.json", job.info.vocab.to_json())
    storage.write_json(job.root / "refusals.json", refusals.to_json())
    summary = _finish(job, marks, refusals, inputs.describe(found))
    print(refusals)
    for line in refusals.lines[:_MAX_PRINTED]:
        print(f"  refused {line}")
    return {**summary, "refused": refusals.refused}


def _loaded(
    job: Job, chunks: Iterator[tuple[Shard, list[Row]]]
) -> Iterator[tuple[Shard, list[Loaded], Refusals]]:
    """Decodes the pictures of the next shard while one is being encoded."""

    def load(shard: Shard, rows: list[Row]) -> tuple[Shard, list[Loaded], Refusals]:
        """Decodes the rows of one shard; runs in the thread."""
        refusals = Refusals()
        found = tokenise.load(
            rows,
            job.picture_config,
            refusals,
            tasks=job.tokenise.tasks,
            num_threads=job.num_threads,
        )
        return shard, found, refusals

    with futures.ThreadPoolExecutor(1) as pool:
        ahead = None
        for shard, rows in chunks:
            following = pool.submit(load, shard, rows)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def _write_chunk(
    job: Job, shard: Shard, rows: Sequence[Loaded], refusals: Refusals
) -> dict[str, Any]:
    """Writes a shard of every set; returns its mark."""
    made = tokenise.records(
        rows,
        job.tools,
        job.tokenise,
        refusals,
        with_tasks=shard.split in (splits.TRAIN, splits.VALIDATION),
        with_query=shard.split == splits.TRAIN,
    )
    sets = {}
    for name, records in made.items():
        where = job.root / name
        written = shards.write_shard(where, shard.split, shard.index, records)
        card = Card()
        for record in records:
            card.count(record, job.info.vocab)
        longest = max((len(record.tokens) for record in records), default=0)
        more = {"longest": longest, "card": card.to_json()}
        sets[name] = written.to_json() | more
    return {"sets": sets, "refusals": refusals.to_json()}


def _finish(
    job: Job, marks: dict[Shard, dict[str, Any]], refusals: Refusals, made_by: str
) -> dict[str, Any]:
    """Describes the sets that hold anything; returns their sizes."""
    summary: dict[str, Any] = {}
    names = {name: None for mark in marks.values() for name in mark["sets"]}
    for name in names:
        parts: dict[str, list[dict[str, Any]]] = {}
        for split in splits.SPLITS:
            some = [mark for shard, mark in marks.items() if shard.split == split]
            own = [mark["sets"][name] for mark in some if name in mark["sets"]]
            if sum(part["records"] for part in own):
                parts[split] = own
        if not parts:
            continue
        written = {
            split: [Written.from_json(part) for part in some]
            for split, some in parts.items()
        }
        shards.finish(job.root / name, job.info, written)
        cards = {split: _card(some) for split, some in parts.items()}
        _write_card(job.root / name, cards, refusals, made_by)
        summary[name] = {
            split: {
                "records": card.documents,
                "tokens_per_record": round(card.tokens / card.documents, 1),
                "longest": max(part["longest"] for part in parts[split]),
            }
            for split, card in cards.items()
        }
    return {"sets": summary, "vocab_size": job.info.vocab.size}


def _card(parts: Sequence[dict[str, Any]]) -> Card:
    whole = Card()
    for part in parts:
        whole.add(Card.from_json(part["card"]))
    return whole


def _write_card(
    root: pathlib.Path, cards: dict[str, Card], refusals: Refusals, made_by: str
) -> None:
    """Writes a set's data card, for programs and for people."""
    counted = {k: v for k, v in refusals.to_json().items() if k != "lines"}
    splits_json = {split: card.to_json() for split, card in cards.items()}
    record = {"made_by": made_by, "splits": splits_json, "refusals": counted}
    storage.write_json(root / "card.json", record)
    page = card_page.markdown(root.name, cards, counted, made_by)
    storage.write_bytes(root / "card.md", page.encode())
