"""One tokenised document as a shard holds it, and its form on disk.

A record is a `tf.train.Example` with one bytes value a feature: strings in UTF-8, arrays
as their little-endian bytes. Ragged parts (the neighbours' tokens) are flat, with their
lengths beside them. TFDS writes and reads the same; `serialize` and `parse` do it some ten and
thirty times faster.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document
from cm3leon_jax.vocab import Vocab

MAX_NEIGHBORS = 4  # chosen per document: two by image, two by text

# Protobuf makes the class when the module is imported; no checker sees it.
_Example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
_NO_TARGET = (-1, -1)
_STRINGS = ("id", "task", "source", "licence", "url", "content_hash")
_ARRAYS = {
    "tokens": np.uint16,
    "modality": np.uint8,
    "target": np.int32,
    "text_vector": np.float16,
    "image_vector": np.float16,
    "query_text_vector": np.float16,
    "query_image_vector": np.float16,
    "neighbor_ids": np.int32,
    "neighbor_scores": np.float32,
    "neighbor_by_image": np.uint8,
    "neighbor_lengths": np.int32,
    "neighbor_tokens": np.uint16,
}


def _empty() -> np.ndarray:
    return np.zeros(0, np.float16)


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Retrieved documents, best first; at most four.

    Attributes:
      ids: int32[n], place of each in the memory bank.
      scores: float32[n], inner products.
      by_image: bool[n], found by the query's image (else by its text).
      tokens: Each neighbour's document, uint16[length].
    """

    ids: np.ndarray
    scores: np.ndarray
    by_image: np.ndarray
    tokens: tuple[np.ndarray, ...]


NO_NEIGHBORS = Neighbors(
    np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, bool), ()
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One document with its vectors, neighbours and where it comes from.

    Attributes:
      id: Unique in its split.
      tokens: uint16[n], ids of the joint vocabulary.
      modality: uint8[G], `Modality` of each segment.
      target: [start, end) in `tokens` of what the task asks for, or None.
      task: Name of the task.
      source: Where it comes from; empty if unknown. Likewise `licence`, `url`.
      content_hash: That of the source ("sha256:..." of its column), else SHA-256 of
        the pictures' pixels as tokenised.
      text_vector: float16[E], unit, or empty. Likewise `image_vector`.
      query_text_vector: float16[E], the same with a share of the text dropped, or
        empty. Likewise `query_image_vector`.
      neighbors: Retrieved documents.
    """

    id: str
    tokens: np.ndarray
    modality: np.ndarray
    target: tuple[int, int] | None = None
    task: str = "pair"
    source: str = ""
    licence: str = ""
    url: str = ""
    content_hash: str = ""
    text_vector: np.ndarray = dataclasses.field(default_factory=_empty)
    image_vector: np.ndarray = dataclasses.field(default_factory=_empty)
    query_text_vector: np.ndarray = dataclasses.field(default_factory=_empty)
    query_image_vector: np.ndarray = dataclasses.field(default_factory=_empty)
    neighbors: Neighbors = NO_NEIGHBORS

    def document(self, vocab: Vocab) -> Document:
        """The document that the tokens spell, with its target."""
        plain = documents.from_ids(self.tokens.astype(np.int32), vocab)
        return dataclasses.replace(plain, target=self.target)


def features() -> tfds.features.FeaturesDict:
    """The features as TFDS describes them in `features.json`."""
    strings = {name: tfds.features.Text() for name in _STRINGS}
    arrays = {
        name: tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")
        for name, dtype in _ARRAYS.items()
    }
    return tfds.features.FeaturesDict({**strings, **arrays})


def serialize(record: Record) -> bytes:
    """Returns the bytes that TFDS would write for a record."""
    near = record.neighbors
    values = {
        "target": _NO_TARGET if record.target is None else record.target,
        "neighbor_ids": near.ids,
        "neighbor_scores": near.scores,
        "neighbor_by_image": near.by_image,
        "neighbor_lengths": [len(tokens) for tokens in near.tokens],
        "neighbor_tokens": np.concatenate(near.tokens) if near.tokens else [],
    }
    example = _Example()
    feature = example.features.feature
    for name in _STRINGS:
        feature[name].bytes_list.value.append(getattr(record, name).encode())
    for name, dtype in _ARRAYS.items():
        value = values[name] if name in values else getattr(record, name)
        feature[name].bytes_list.value.append(np.asarray(value, dtype).tobytes())
    # Deterministic: the order of a map's keys is part of the shard's bytes.
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Record:
    """Reads what `serialize` wrote.

    Raises:
      google.protobuf.message.DecodeError, IndexError or ValueError: If it is none.
    """
    feature = _Example.FromString(data).features.feature
    raw = {name: feature[name].bytes_list.value[0] for name in (*_STRINGS, *_ARRAYS)}
    arrays: dict[str, np.ndarray] = {
        name: np.frombuffer(raw[name], kind) for name, kind in _ARRAYS.items()
    }
    near = NO_NEIGHBORS
    if len(arrays["neighbor_ids"]):
        bounds = np.cumsum(arrays["neighbor_lengths"])[:-1]
        near = Neighbors(
            ids=arrays["neighbor_ids"],
            scores=arrays["neighbor_scores"],
            by_image=arrays["neighbor_by_image"].astype(bool),
            tokens=tuple(np.split(arrays["neighbor_tokens"], bounds)),
        )
    start, end = arrays["target"].tolist()
    return Record(
        **{name: raw[name].decode() for name in _STRINGS},
        tokens=arrays["tokens"],
        modality=arrays["modality"],
        target=None if start < 0 else (start, end),
        text_vector=arrays["text_vector"],
        image_vector=arrays["image_vector"],
        query_text_vector=arrays["query_text_vector"],
        query_image_vector=arrays["query_image_vector"],
        neighbors=near,
    )
