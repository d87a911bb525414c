"""A training example before tokenisation, and the step to a document.

An example is text and pictures in order, with the text that a task asks for marked as
`Target`. The same parts with `Hole` in the target's place are the test-time prompt, and
because every string is encoded by itself, the tokens around the hole are the very
tokens around the target.

    parts     "Question: what colour is it? Answer:", Target(" red"), ".", picture
    document  [Question ... Answer: red .] <break> [codes], target = the ids of " red"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class Target:
    """Text that a task asks for, inside a text segment."""

    text: str


@dataclasses.dataclass(frozen=True)
class Hole:
    """The target's place in a test-time prompt: what the model fills in."""


Part = str | Target | np.ndarray  # an array is a picture, uint8[Y, X, 3]


@dataclasses.dataclass(frozen=True)
class Example:
    """Text and pictures in order, with where they come from.

    Attributes:
      id: Unique within its data set.
      parts: Strings, at most one `Target`, and pictures uint8[Y, X, 3]. Consecutive
        strings and targets are one text segment.
      task: Name of the task, for counting.
      source: Where it comes from; empty if unknown. Likewise `licence` and `url`.
      content_hash: That its source gives for its one picture; empty if none.
    """

    id: str
    parts: tuple[Part, ...]
    task: str = "pair"
    source: str = ""
    licence: str = ""
    url: str = ""
    content_hash: str = ""

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        """The pictures in order, as `tokenize` wants their codes."""
        return tuple(part for part in self.parts if isinstance(part, np.ndarray))


def tokenize(
    example: Example,
    encode_text: Callable[[str], list[int]],
    codes: Sequence[np.ndarray],
    vocab: Vocab,
) -> Document:
    """Returns the document of an example.

    Args:
      example: What to tokenise.
      encode_text: From a string to text ids (never control ids).
      codes: One int array[P] of image codes per picture of the example, in order.
      vocab: The joint vocabulary.

    Raises:
      ValueError: If the example is empty, has two targets, or `codes` does not match
        its pictures in number.
    """
    if len(codes) != len(example.pictures):
        raise ValueError(
            f"example {example.id!r} has {len(example.pictures)} pictures, got codes of"
            f" {len(codes)}"
        )
    segments: list[Segment] = []
    text: list[int] | None = None  # the open text segment
    target = None
    remaining = iter(codes)
    before: Modality | None = None  # of the segment that the last part belongs to
    offset = 0  # of the next id in to_ids
    for part in example.parts:
        if isinstance(part, np.ndarray):
            if text is not None:
                segments.append(_text(text))
                text = None
            offset += len(documents.opening(before, Modality.IMAGE, vocab))
            before = Modality.IMAGE
            ids = vocab.image_ids(np.asarray(next(remaining), np.int32))
            segments.append(Segment(Modality.IMAGE, ids))
            offset += len(ids) + len(documents.closing(before, vocab))
            continue
        if text is None:
            offset += len(documents.opening(before, Modality.TEXT, vocab))
            text, before = [], Modality.TEXT
        ids = encode_text(part.text if isinstance(part, Target) else part)
        if isinstance(part, Target):
            if target is not None:
                raise ValueError(f"example {example.id!r} has two targets; allow one")
            target = (offset, offset + len(ids))
        text += ids
        offset += len(ids)
    if text is not None:
        segments.append(_text(text))
    if not segments:
        raise ValueError(f"example {example.id!r} is empty; drop it")
    return Document(tuple(segments), target)


def _text(ids: list[int]) -> Segment:
    return Segment(Modality.TEXT, np.asarray(ids, np.int32))
