"""Rows of pictures and text -> records: the work of one shard.

Every picture of a chunk of rows is read once (by threads), encoded once, however many
examples show it, and embedded once; then each task's examples become documents. All
randomness comes from the seed and a row's id, so that any number of machines writes the
same shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import numpy as np

from cm3leon_jax.data import pictures
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError
from cm3leon_jax.data.sources import folder
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents import example as examples
from cm3leon_jax.documents.example import Example
from cm3leon_jax.tasks import caption, edit, layout, pair, segmentation, vqa
from cm3leon_jax.tasks.row import Box, TaskRow
from cm3leon_jax.vocab import Vocab

PAIRS = "pairs"  # the set that pretraining sees; the others bear their task's name
TASKS: dict[str, Callable[..., list[Example]]] = {
    task.NAME: task.examples for task in (caption, vqa, edit, layout, segmentation)
}
_OTHER_PICTURES = ("edit", "segmentation")  # columns that name a further picture


class AbstractEmbedder(Protocol):
    """Texts and pictures to unit vectors (`embedders.clip.ClipEmbedder`)."""

    def embed_text(
        self, texts: Sequence[str], *, drop_prob: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Returns float32[N, E]."""
        ...

    def embed_pictures(
        self, pictures: np.ndarray, *, drop_prob: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Returns float32[N, E]."""
        ...


@dataclasses.dataclass(frozen=True)
class Tools:
    """The trained parts that shards are made with.

    Attributes:
      vocab: The joint vocabulary.
      encode_text: A string to text ids.
      encode_pictures: uint8[N, Y, X, 3] to codes int32[N, P].
      embedder: For the vectors of pairs; None leaves them out.
    """

    vocab: Vocab
    encode_text: Callable[[str], list[int]]
    encode_pictures: Callable[[np.ndarray], np.ndarray]
    embedder: AbstractEmbedder | None


@dataclasses.dataclass(frozen=True)
class TokeniseConfig:
    """What is made of a row.

    Attributes:
      tasks: Options of each task that gets a set of its own, by its name.
      query_drop_prob: Share of pieces or patches dropped in query vectors.
      pair_long_share: Share of the pairs whose text is the row's long caption.
      seed: Decides templates, questions and what is dropped.

    Raises:
      ValueError: If a task is unknown.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    query_drop_prob: float = 0.2  # CM3Leon, section 2.1
    pair_long_share: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name in self.tasks:
            if name not in TASKS:
                raise ValueError(f"no task {name!r}; known: {', '.join(TASKS)}")


def load(
    rows: Sequence[folder.Row],
    config: PictureConfig,
    refusals: Refusals,
    *,
    num_threads: int = 4,
) -> list[TaskRow]:
    """Reads the rows' pictures; a row with a bad one is refused as a whole."""

    def attempt(row: folder.Row) -> TaskRow | RefusedError:
        try:
            return _load_row(row, config)
        except RefusedError as error:
            return error

    loaded = []
    with futures.ThreadPoolExecutor(num_threads) as pool:
        for row, found in zip(rows, pool.map(attempt, rows), strict=True):
            if isinstance(found, RefusedError):
                refusals.refuse(str(row.path), found)
            else:
                refusals.accepted += 1
                loaded.append(found)
    return loaded


def records(
    rows: Sequence[TaskRow],
    tools: Tools,
    config: TokeniseConfig,
    *,
    with_tasks: bool,
    with_query: bool,
) -> dict[str, list[Record]]:
    """Makes the records of a chunk of rows.

    Args:
      rows: The chunk.
      tools: Tokenizers, and the embedder.
      config: What is made.
      with_tasks: Whether the tasks' sets are made as well as `PAIRS`.
      with_query: Whether pairs get the vectors with a share dropped.

    Returns:
      For each set its records, in the order of the rows.
    """
    made: dict[str, list[Example]] = {PAIRS: []}
    tasks = config.tasks if with_tasks else {}
    made.update({name: [] for name in tasks})
    for row in rows:
        rng = np.random.default_rng((config.seed, zlib.crc32(row.id.encode())))
        made[PAIRS] += pair.examples(row, rng, long_share=config.pair_long_share)
        for name, options in tasks.items():
            made[name] += TASKS[name](row, rng, **options)
    codes = _Codes([one for some in made.values() for one in some], tools)
    found = {
        name: [_record(one, codes, tools) for one in some]
        for name, some in made.items()
    }
    if tools.embedder is not None and rows:
        vectors = _vectors(rows, tools.embedder, config, with_query)
        found[PAIRS] = [
            dataclasses.replace(
                record, **{name: array[index] for name, array in vectors.items()}
            )
            for index, record in enumerate(found[PAIRS])
        ]
    return found


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
        return [self._codes[self._index[id(one)]] for one in made.pictures]

    def content_hash(self, made: Example) -> str:
        hashes = [self._hashes[self._index[id(one)]] for one in made.pictures]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _record(made: Example, codes: _Codes, tools: Tools) -> Record:
    document = examples.tokenize(
        made, tools.encode_text, codes.codes(made), tools.vocab
    )
    return Record(
        id=made.id,
        tokens=documents.to_ids(document, tools.vocab).astype(np.uint16),
        modality=np.array([part.modality for part in document.segments], np.uint8),
        target=document.target,
        task=made.task,
        source=made.source,
        licence=made.licence,
        url=made.url,
        content_hash=codes.content_hash(made),
    )


def _vectors(
    rows: Sequence[TaskRow],
    embedder: AbstractEmbedder,
    config: TokeniseConfig,
    with_query: bool,
) -> dict[str, np.ndarray]:
    """float16[N, E] by the record's field."""
    texts = [row.text for row in rows]
    pixels = np.stack([row.picture for row in rows])
    found = {
        "text_vector": embedder.embed_text(texts),
        "image_vector": embedder.embed_pictures(pixels),
    }
    if with_query:
        drop = {"drop_prob": config.query_drop_prob, "seed": config.seed}
        found["query_text_vector"] = embedder.embed_text(texts, **drop)
        found["query_image_vector"] = embedder.embed_pictures(pixels, **drop)
    return {name: array.astype(np.float16) for name, array in found.items()}


def _load_row(row: folder.Row, config: PictureConfig) -> TaskRow:
    root = row.root.resolve()
    others = {}
    for name in _OTHER_PICTURES:
        column = row.columns.get(name)
        if isinstance(column, dict) and isinstance(column.get("file_name"), str):
            path = folder.check_inside(root, column["file_name"])
            others[name] = pictures.load(path, config)
    loaded = TaskRow(
        id=row.id,
        picture=pictures.load(row.path, config),
        text=row.text,
        columns=row.columns,
        others=others,
        boxes=_boxes(row.path, row.columns.get("boxes")),
        source=row.column("source"),
        licence=row.column("licence"),
        url=row.column("url"),
    )
    _check_columns(loaded)
    return loaded


def _boxes(path: pathlib.Path, column: Any) -> tuple[Box, ...]:
    """The boxes that lie within what is left of the picture, as shares of it."""
    if not column:
        return ()
    try:
        names = [str(item["name"]) for item in column]
        corners = [item["box"] for item in column]
        shares = pictures.crop_boxes(corners, *pictures.shown_size(path))
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(Reason.MALFORMED, f"column 'boxes': {error}") from error
    return tuple(
        Box(name, tuple(box))
        for name, box in zip(names, shares.tolist(), strict=True)
        if box[0] < box[2] and box[1] < box[3]
    )


def _check_columns(row: TaskRow) -> None:
    """Refuses a row whose annotations no task could read, before it is encoded."""
    rng = np.random.default_rng(0)
    try:
        for make in TASKS.values():
            make(row, rng)
    except (ValueError, KeyError) as error:
        raise RefusedError(Reason.MALFORMED, str(error)) from error
