"""What a mixture will show, before anything is trained: a look at some of its documents.

A mistake in a template is a mistake in every example; seen here, it costs a minute.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cm3leon_jax.data.mixture import BLOCK, InOrder, Mixture
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.shards import Source
from cm3leon_jax.data.streams import Documents, LoaderConfig
from cm3leon_jax.documents import cm3
from cm3leon_jax.vocab import Vocab

SAMPLE = 64  # documents of a set that are looked at


@dataclasses.dataclass(frozen=True)
class SetSurvey:
    """One set as training will see it.

    Attributes:
      name: Of the set.
      examples: Documents that it has.
      weight: In the mixture.
      share: Of the documents of the mixture, as they are drawn.
      seen: Documents of it that the run will see, about.
      mean_length: Tokens of a document with what stands before it, about.
      target_share: Of the documents looked at, those with a target.
      asked_share: Those whose target is masked whole and alone, or comes last, after
        all that it depends on: trained the way that it is asked for.
      too_long_share: Of the documents looked at, those that fit no row: an answer or
        a text that is longer. They are left out, and counted.
      neighbors: Retrieved documents in front of a document, on average.
      neighbors_dropped: Those for which its row had no room, on average.
      sample: One document, or None if those looked at are damaged.
    """

    name: str
    examples: int
    weight: float
    share: float
    seen: float
    mean_length: float
    target_share: float
    asked_share: float
    too_long_share: float
    neighbors: float
    neighbors_dropped: float
    sample: Record | None

    @property
    def epochs(self) -> float:
        """How often each of its documents will be seen."""
        return self.seen / self.examples


class _Look(NamedTuple):
    """What is seen of a set's documents; fields of `SetSurvey`."""

    mean_length: float = 1.0
    target_share: float = 0.0
    asked_share: float = 0.0
    too_long_share: float = 0.0
    neighbors: float = 0.0
    neighbors_dropped: float = 0.0
    sample: Record | None = None


def survey(
    sources: Sequence[Source],
    weights: Sequence[float],
    config: LoaderConfig,
    *,
    with_neighbors: Sequence[bool],
    num_tokens: float,
) -> list[SetSurvey]:
    """Looks at some documents of every set.

    Args:
      sources: The sets.
      weights: Of each, in the mixture.
      config: How documents become batches.
      with_neighbors: Of each, whether retrieved documents stand before its own.
      num_tokens: Of the whole run; rows count as full.

    Raises:
      ValueError: As `Mixture`; if none of a set's documents fits a row.
    """
    mixture = Mixture([len(one) for one in sources], weights, config.seed)
    shares = [count / BLOCK for count in mixture.counts]
    looks = [
        _look(source, config, has)
        for source, has in zip(sources, with_neighbors, strict=True)
    ]
    lengths = [look.mean_length for look in looks]
    mean = sum(map(operator.mul, shares, lengths))
    documents = num_tokens / max(1.0, mean)
    return [
        SetSurvey(
            name=source.name,
            examples=len(source),
            weight=weight,
            share=share,
            seen=share * documents,
            **look._asdict(),
        )
        for source, weight, share, look in zip(
            sources, weights, shares, looks, strict=True
        )
    ]


def _look(source: Source, config: LoaderConfig, with_neighbors: bool) -> _Look:
    """Reads some documents of a set as training does."""
    vocab = source.info.vocab
    documents = Documents([source], InOrder(), config, vocab, [with_neighbors])
    count = min(SAMPLE, len(source))
    numbers = np.linspace(0, len(source) - 1, count).astype(int).tolist()
    lengths, has_target, asked, first = [], [], [], None
    for number, record in zip(numbers, documents.read(numbers), strict=True):
        rng = documents.rng(2, number)
        made = documents.sequence(record, rng)
        if made is None or record is None:
            continue
        first = first or record
        ids, _, targets = made
        lengths.append(len(ids) - 1)
        has_target.append(len(targets) > 0)
        if len(targets):
            spans = cm3.draw_spans(ids, rng, config.cm3, vocab, targets=targets)
            asked.append(_is_asked(ids, spans, targets, vocab))
    if documents.counts.too_long == count:
        raise ValueError(
            f"none of the {count} documents of {source.name!r} that were looked at fits"
            f" a row of {config.max_length=}; raise it, or give the set weight 0"
        )
    if not lengths:
        return _Look()
    return _Look(
        mean_length=float(np.mean(lengths)),
        target_share=float(np.mean(has_target)),
        asked_share=sum(asked) / len(asked) if asked else 0.0,
        too_long_share=documents.counts.too_long / count,
        neighbors=documents.counts.neighbors / len(lengths),
        neighbors_dropped=documents.counts.neighbors_dropped / len(lengths),
        sample=first,
    )


def _is_asked(
    ids: np.ndarray, spans: np.ndarray, targets: np.ndarray, vocab: Vocab
) -> bool:
    """Whether the target is what is masked, or all that it depends on is before it."""
    start, end = targets[0]
    if len(spans) == len(targets) and np.array_equal(spans, targets):
        return True
    is_last = not vocab.is_image(ids[end:]).any()
    is_whole = not any(lo < end and hi > start for lo, hi in spans)
    return bool(is_last and is_whole)
