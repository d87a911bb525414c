"""What a training sequence is made of: documents of text and image segments.

A document is an ordered row of segments. Its ids are the segments' ids joined by
`<break>`; a sequence is one or more documents between two `</s>`, retrieved ones first:

    document   text <break> image
    sequence   </s> text <break> image <break> text <break> image </s>
               |    '--- retrieved ---'         '---- query ----' |

Nothing here knows tokenizers, masking or rows: see `example`, `cm3`, `packing`.

Source: CM3Leon, arXiv:2309.02591, Figures 8 and 9.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from cm3leon_jax.vocab import Vocab


class Modality(enum.IntEnum):
    """What a segment holds; the values are written into shards."""

    TEXT = 0
    IMAGE = 1


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of text, or one picture.

    Attributes:
      modality: What the ids are.
      ids: int32[n], ids of the joint vocabulary (not bare image codes).
    """

    modality: Modality
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Document:
    """Text and pictures in order.

    Attributes:
      segments: At least one segment.
      target: [start, end) within `to_ids`, the span that a task asks for (an answer,
        a caption), or None. It lies inside one segment.
    """

    segments: tuple[Segment, ...]
    target: tuple[int, int] | None = None


def to_ids(document: Document, vocab: Vocab) -> np.ndarray:
    """Returns a document's ids, segments joined by `<break>`, without `</s>`.

        segments  [5 6] (text), [100 101 102 103] (image)
        ids       [5 6 <break> 100 101 102 103]

    Returns:
      int32[n].

    Raises:
      ValueError: If the document is empty, or an image has another number of codes
        than the vocabulary says.
    """
    if not document.segments:
        raise ValueError("a document needs at least one segment; drop empty documents")
    pieces = []
    for segment in document.segments:
        ids = np.asarray(segment.ids, np.int32)
        if segment.modality == Modality.IMAGE and len(ids) != vocab.codes_per_image:
            raise ValueError(
                f"an image has {len(ids)} codes, the vocabulary says"
                f" {vocab.codes_per_image}; use the tokenizer it was made with"
            )
        if pieces:
            pieces.append(np.array([vocab.break_id], np.int32))
        pieces.append(ids)
    return np.concatenate(pieces)


def from_ids(ids: np.ndarray, vocab: Vocab) -> Document:
    """Returns the document whose ids these are; the inverse of `to_ids`.

    A segment between two `<break>` is an image if its first id is an image code. Empty
    segments are empty texts.

    Args:
      ids: int[n], without `</s>`, sentinels or end of infill (undo CM3 first).
      vocab: The vocabulary that the ids belong to.

    Raises:
      ValueError: If a segment mixes text and image codes, or an image has the wrong
        number of codes.
    """
    ids = np.asarray(ids, np.int32)
    breaks = np.flatnonzero(ids == vocab.break_id)
    segments = []
    for piece in np.split(ids, breaks):
        piece = piece[1:] if segments else piece
        segments.append(_segment(piece, vocab))
    return Document(tuple(segments))


def _segment(ids: np.ndarray, vocab: Vocab) -> Segment:
    if len(ids) and bool(vocab.is_image(ids[0])):
        if not np.all(vocab.is_image(ids)) or len(ids) != vocab.codes_per_image:
            raise ValueError(
                f"an image segment must be {vocab.codes_per_image} image codes, got"
                f" {len(ids)} ids of which {int(np.sum(vocab.is_image(ids)))} are codes"
            )
        return Segment(Modality.IMAGE, ids)
    if not np.all(vocab.is_text(ids)):
        bad = ids[~vocab.is_text(ids)][0]
        raise ValueError(f"a text segment holds id {bad}, which is no text piece")
    return Segment(Modality.TEXT, ids)


def join(documents: Sequence[Document], vocab: Vocab) -> np.ndarray:
    """Returns one sequence: retrieved documents first, the query last.

    Args:
      documents: At least one; the last is the query.
      vocab: The joint vocabulary.

    Returns:
      int32[n]: `</s> d1 <break> d2 <break> ... dn </s>`.

    Source: CM3Leon, arXiv:2309.02591, Figure 9.
    """
    return join_ids([to_ids(document, vocab) for document in documents], vocab)


def join_ids(documents: Sequence[np.ndarray], vocab: Vocab) -> np.ndarray:
    """Joins documents that are ids already (`to_ids`), as `join` does.

    Args:
      documents: int[n] each, at least one; the last is the query.
      vocab: The joint vocabulary.

    Returns:
      int32[n].
    """
    eos = np.array([vocab.EOS], np.int32)
    between = np.array([vocab.break_id], np.int32)
    pieces = [eos]
    for index, ids in enumerate(documents):
        if index:
            pieces.append(between)
        pieces.append(ids)
    return np.concatenate([*pieces, eos], dtype=np.int32, casting="same_kind")
