"""What a set of shards is made of, counted: the data card.

By split the documents, tokens, pictures and words of text; by source and by licence the
documents; the lengths of captions as a histogram in powers of two. Counts of shards are
added up, so that every host counts its own. `reports/card.py` makes a page of them.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np

from cm3leon_jax.data.record import Record
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.vocab import Vocab

UNKNOWN = "(unknown)"
OTHERS = "(others)"
MAX_NAMES = 1_000  # sources or licences counted by name, the most frequent ones


@dataclasses.dataclass
class Card:
    """Counts of some records.

    Attributes:
      documents: How many.
      tokens: Of all documents.
      pictures: Likewise.
      text_tokens: Likewise.
      with_vectors: Documents with a text vector or an image vector.
      sources: Documents by source.
      licences: Documents by licence.
      caption_lengths: Texts by their length in tokens: under k those of 2^(k-1) to
        2^k - 1 tokens, under 0 documents without text.
    """

    documents: int = 0
    tokens: int = 0
    pictures: int = 0
    text_tokens: int = 0
    with_vectors: int = 0
    sources: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    licences: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    caption_lengths: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )

    def count(self, record: Record, vocab: Vocab) -> None:
        """Counts a record."""
        num_text = int(np.count_nonzero(vocab.is_text(record.tokens)))
        self.documents += 1
        self.tokens += len(record.tokens)
        self.pictures += int(np.count_nonzero(record.modality == Modality.IMAGE))
        self.text_tokens += num_text
        self.with_vectors += bool(len(record.text_vector) or len(record.image_vector))
        self.sources[record.source or UNKNOWN] += 1
        self.licences[record.licence or UNKNOWN] += 1
        self.caption_lengths[str(num_text.bit_length())] += 1

    def add(self, other: Card) -> None:
        """Adds the counts of other records."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, mine + theirs)
        self.sources = _fewer(self.sources)
        self.licences = _fewer(self.licences)

    def to_json(self) -> dict[str, Any]:
        """Plain values, names by frequency."""
        return {
            field.name: dict(_ordered(value)) if isinstance(value, dict) else value
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Card:
        """Reads what `to_json` wrote.

        Raises:
          TypeError: If a field is unknown.
        """
        read: dict[str, Any] = {
            name: collections.Counter(value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
        return cls(**read)


def _ordered(counter: dict[str, int]) -> list[tuple[str, int]]:
    # By frequency and then by name: the same on all machines.
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _fewer(counter: collections.Counter) -> collections.Counter:
    """The most frequent names; the rest together."""
    if len(counter) <= MAX_NAMES + 1:
        return counter
    named = [item for item in _ordered(counter) if item[0] != OTHERS]
    kept = collections.Counter(dict(named[:MAX_NAMES]))
    kept[OTHERS] = counter.total() - kept.total()
    return kept
