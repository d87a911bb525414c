"""What a training sequence is made of: documents of text and image segments.

A document is an ordered row of segments. Its ids are the segments' ids joined by
`<break>`; a sequence is one or more documents between two `</s>`, retrieved ones first:

    document   text <break> image
    sequence   </s> text <break> image <break> text <break> image </s>
               |    '--- retrieved ---'         '---- query ----' |

With marks of pictures (`Vocab.use_image_marks`, Chameleon) each picture stands between
its two, and `<break>` between two texts alone:

    document   text <begin> image <end>
    sequence   <s> text <begin> image <end> text <begin> image <end> </s>

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


def opening(
    before: Modality | None, segment: Modality, vocab: Vocab
) -> tuple[int, ...]:
    """Returns the marks in front of a segment.

    before, segment   text, image   image, text   text, text   None, image
    CM3Leon           <break>       <break>       <break>
    Chameleon         <begin>                     <break>      <begin>

    Args:
      before: The segment before it, behind its `closing`; None at a document's start.
      segment: The segment.
      vocab: The joint vocabulary.
    """
    if not vocab.use_image_marks:
        return () if before is None else (vocab.break_id,)
    if segment == Modality.IMAGE:
        return (vocab.begin_image_id,)
    return (vocab.break_id,) if before == Modality.TEXT else ()


def closing(segment: Modality, vocab: Vocab) -> tuple[int, ...]:
    """Returns the mark behind a segment: of a picture, where pictures have marks."""
    is_marked = vocab.use_image_marks and segment == Modality.IMAGE
    return (vocab.end_image_id,) if is_marked else ()


def to_ids(document: Document, vocab: Vocab) -> np.ndarray:
    """Returns a document's ids, segments between their marks, without `</s>`.

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
    pieces, before = [], None
    for segment in document.segments:
        ids = np.asarray(segment.ids, np.int32)
        if segment.modality == Modality.IMAGE and len(ids) != vocab.codes_per_image:
            raise ValueError(
                f"an image has {len(ids)} codes, the vocabulary says"
                f" {vocab.codes_per_image}; use the tokenizer it was made with"
            )
        marks = opening(before, segment.modality, vocab)
        pieces += [marks, ids, closing(segment.modality, vocab)]
        before = segment.modality
    return np.concatenate([np.array(piece, np.int32) for piece in pieces])


def from_ids(ids: np.ndarray, vocab: Vocab) -> Document:
    """Returns the document whose ids these are; the inverse of `to_ids`.

    A segment between two `<break>` is an image if its first id is an image code. Empty
    segments are empty texts, but leave no trace beside a picture that has marks.

    Args:
      ids: int[n], without `</s>`, sentinels or end of infill (undo CM3 first).
      vocab: The vocabulary that the ids belong to.

    Raises:
      ValueError: If a segment mixes text and image codes, or an image has the wrong
        number of codes or lacks a mark.
    """
    ids = np.asarray(ids, np.int32)
    breaks = np.flatnonzero(vocab.is_boundary(ids))
    segments = []
    for number, piece in enumerate(np.split(ids, breaks)):
        piece = piece[1:] if number else piece
        if len(piece) or not vocab.use_image_marks:
            segments.append(_segment(piece, vocab))
    found = Document(tuple(segments))
    if vocab.use_image_marks and not np.array_equal(to_ids(found, vocab), ids):
        raise ValueError("an image segment lacks its marks, or stands between others")
    return found


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
      int32[n]: `</s> d1 <break> d2 <break> ... dn </s>`; between documents of which one
      brings its picture's mark, no `<break>`.

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
    begin, between, end = (
        np.array([one], np.int32) for one in (vocab.begin_id, vocab.break_id, vocab.EOS)
    )
    pieces = [begin]
    for index, ids in enumerate(documents):
        if index and not _is_marked(documents[index - 1], ids, vocab):
            pieces.append(between)
        pieces.append(ids)
    return np.concatenate([*pieces, end], dtype=np.int32, casting="same_kind")


def _is_marked(before: np.ndarray, ids: np.ndarray, vocab: Vocab) -> bool:
    """Whether the mark of a picture stands between two documents already."""
    if not vocab.use_image_marks:
        return False
    return before[-1] == vocab.end_image_id or ids[0] == vocab.begin_image_id
