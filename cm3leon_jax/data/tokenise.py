"""Rows of pictures and text -> records: the work of one shard.

Every picture of a chunk of rows is read once (by threads), encoded once, however many
examples show it, and embedded once; then each task's examples become documents. All
randomness comes from the seed and a row's id, so that any number of machines writes the
same shards.

A pair of text and picture is what tasks are made of. Any other document (interleaved,
text or pictures alone) goes into `PAIRS` as it is, its vectors those of all its text
and the mean of its pictures. A picture that is there for tasks alone goes into theirs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.data import loading, vectors
from cm3leon_jax.data.loading import Loaded
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError
from cm3leon_jax.data.sources.row import Row
from cm3leon_jax.data.vectors import AbstractEmbedder, AbstractVectors
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents import example as examples
from cm3leon_jax.documents.example import Example
from cm3leon_jax.tasks import pair, table
from cm3leon_jax.tasks.row import TaskRow
from cm3leon_jax.vocab import Vocab

PAIRS = "pairs"  # the set that pretraining sees; the others bear their task's name


@dataclasses.dataclass(frozen=True)
class Tools:
    """The trained parts that shards are made with.

    Attributes:
      vocab: The joint vocabulary.
      encode_text: A string to text ids.
      encode_pictures: uint8[N, Y, X, 3] to codes int32[N, P].
      embedder: For the vectors of pairs; None leaves them out.
      given: Vectors that are there already; those that are missing are made.
    """

    vocab: Vocab
    encode_text: Callable[[str], list[int]]
    encode_pictures: Callable[[np.ndarray], np.ndarray]
    embedder: AbstractEmbedder | None
    given: AbstractVectors | None = None


@dataclasses.dataclass(frozen=True)
class TokeniseConfig:
    """What is made of a row.

    Attributes:
      tasks: Options of each task that gets a set of its own, by its name.
      query_drop_prob: Share of pieces or patches dropped in query vectors.
      pair_long_share: Share of the pairs whose text is the row's long caption.
      seed: Decides templates, questions and what is dropped.

    Raises:
      ValueError: If a task or an option is unknown.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    query_drop_prob: float = 0.2  # CM3Leon, section 2.1
    pair_long_share: float = 0.0
    seed: int = 0

    def __post_init__(self):
        table.check(self.tasks)


def load(
    rows: Sequence[Row],
    config: PictureConfig,
    refusals: Refusals,
    *,
    tasks: Mapping[str, Mapping[str, Any]],
    num_threads: int = 4,
) -> list[Loaded]:
    """Reads the rows' pictures, and refuses rows that one of the tasks cannot read."""
    names = [name for task in tasks for name in table.get(task).OTHERS]
    return loading.load(
        rows,
        config,
        refusals,
        num_threads=num_threads,
        others=tuple(dict.fromkeys(names)),
        check=functools.partial(_check_columns, tasks=tasks),
    )


def records(
    rows: Sequence[Loaded],
    tools: Tools,
    config: TokeniseConfig,
    refusals: Refusals,
    *,
    with_tasks: bool,
    with_query: bool,
) -> dict[str, list[Record]]:
    """Makes the records of a chunk of rows.

    Args:
      rows: The chunk.
      tools: Tokenizers, and the embedder.
      config: What is made.
      refusals: Where rows are counted whose text cannot be tokenised.
      with_tasks: Whether the tasks' sets are made as well as `PAIRS`.
      with_query: Whether pairs get the vectors with a share dropped.

    Returns:
      For each set its records, in the order of the rows.
    """
    tasks = config.tasks if with_tasks else {}
    texts = _Texts(tools)
    made: dict[str, list[Example]] = {name: [] for name in (PAIRS, *tasks)}
    kept = []
    for row in rows:
        own = _examples(row, config, tasks)
        try:
            texts.encode([one for some in own.values() for one in some])
        except RefusedError as error:
            refusals.accepted -= 1  # `load` took it
            refusals.refuse(row.row.place, error)
            continue
        if own[PAIRS]:
            kept.append(row)
        for name, some in own.items():
            made[name] += some
    codes = _Codes([one for some in made.values() for one in some], tools)
    found = {
        name: [_record(one, codes, texts, tools.vocab) for one in some]
        for name, some in made.items()
    }
    drop = {"drop_prob": config.query_drop_prob, "seed": config.seed}
    found_vectors = vectors.find(
        kept, tools.embedder, tools.given, query_drop=drop if with_query else None
    )
    found[PAIRS] = [
        dataclasses.replace(record, **fields)
        for record, fields in zip(found[PAIRS], found_vectors, strict=True)
    ]
    return found


def _examples(
    row: Loaded, config: TokeniseConfig, tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Example]]:
    """The examples of a row by set; of `PAIRS` one, none if it is for tasks alone."""
    if row.task is None:
        whole = Example(
            id=row.id,
            parts=row.parts,
            task="document",
            source=row.row.source,
            licence=row.row.licence,
            url=row.row.url,
        )
        return {PAIRS: [_with_hash(whole, row.row.content_hash)]}
    rng = np.random.default_rng((config.seed, zlib.crc32(row.id.encode())))
    made: dict[str, list[Example]] = {PAIRS: []}
    if row.row.is_pair:
        made[PAIRS] = pair.examples(row.task, rng, long_share=config.pair_long_share)
    for name, options in tasks.items():
        made[name] = table.get(name).examples(row.task, rng, **options)
    given = row.row.content_hash
    return {
        name: [_with_hash(one, given) for one in some] for name, some in made.items()
    }


def _with_hash(made: Example, given: str) -> Example:
    """The example with its source's hash, if it shows the one picture of that hash."""
    if not given or len(made.pictures) != 1:
        return made
    return dataclasses.replace(made, content_hash=given)


class _Texts:
    """Ids of texts, every one checked: text never becomes a control id."""

    def __init__(self, tools: Tools):
        self._encode, self._vocab = tools.encode_text, tools.vocab
        self._ids: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        return self._ids[text]

    def encode(self, made: Sequence[Example]) -> None:
        """Encodes the texts of some examples.

        Raises:
          RefusedError: If a tokenizer parses what should be plain text.
        """
        for one in made:
            for part in one.parts:
                text = part.text if isinstance(part, examples.Target) else part
                if isinstance(text, str) and text not in self._ids:
                    self._ids[text] = self._checked(text)

    def _checked(self, text: str) -> list[int]:
        ids = self._encode(text)
        if ids and not self._vocab.UNK < min(ids) <= max(ids) < self._vocab.text_size:
            raise RefusedError(
                Reason.CONTROL_ID,
                "the text tokenizer made control ids of plain text; use one that"
                " escapes them",
            )
        return ids


class _Codes:
    """Codes and hashes of every distinct picture of some examples."""

    def __init__(self, shown: Sequence[Example], tools: Tools):
        # Examples of a row share its arrays, so identity tells distinct pictures.
        distinct = {id(one): one for made in shown for one in made.pictures}
        self._index = {key: index for index, key in enumerate(distinct)}
        pixels = list(distinct.values())
        self._codes = tools.encode_pictures(np.stack(pixels)) if pixels else []
        self._hashes = [hashlib.sha256(one.tobytes()).hexdigest() for one in pixels]

    def codes(self, made: Example) -> list[np.ndarray]:
        """Returns the codes of an example's pictures, in their order."""
        return [self._codes[self._index[id(one)]] for one in made.pictures]

    def content_hash(self, made: Example) -> str:
        """The source's; else of the pictures as tokenised, or of text alone."""
        if made.content_hash:
            return made.content_hash
        hashes = [self._hashes[self._index[id(one)]] for one in made.pictures]
        if len(hashes) == 1:
            return hashes[0]
        texts = [] if hashes else [part for part in made.parts if type(part) is str]
        return hashlib.sha256("".join(hashes + texts).encode()).hexdigest()


def _record(made: Example, codes: _Codes, texts: _Texts, vocab: Vocab) -> Record:
    document = examples.tokenize(made, texts, codes.codes(made), vocab)
    return Record(
        id=made.id,
        tokens=documents.to_ids(document, vocab).astype(np.uint16),
        modality=np.array([part.modality for part in document.segments], np.uint8),
        target=document.target,
        task=made.task,
        source=made.source,
        licence=made.licence,
        url=made.url,
        content_hash=codes.content_hash(made),
    )


def _check_columns(row: TaskRow, *, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a row whose annotations a task cannot read, before it is encoded."""
    rng = np.random.default_rng(0)
    try:
        for name, options in tasks.items():
            table.get(name).examples(row, rng, **options)
    except (ValueError, KeyError) as error:
        raise RefusedError(Reason.MALFORMED, str(error)) from error
