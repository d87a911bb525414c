"""Perplexity by modality, by the very function that training minimises.

The guess beside it is the best that a model without context can do on these rows: the
exponential of the entropy of their own unigrams.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.models import transformer
from cm3leon_jax.train import step
from cm3leon_jax.vocab import Vocab


def evaluate(
    model: transformer.Transformer,
    batches: Iterable[Batch],
    vocab: Vocab,
    config: step.StepConfig,
) -> dict[str, float]:
    """Returns `perplexity_text`, `perplexity_image`, each with its `_guess`.

    Args:
      model: Stacked or unstacked.
      batches: Held-out rows, each document once.
      vocab: The joint vocabulary.
      config: How the loss is computed.

    Raises:
      ValueError: If there is no batch.
    """
    sums_of = jax.jit(step.evaluation(config, vocab))
    sums: dict[str, float] = {}
    counts_V = np.zeros(vocab.size)
    for batch in batches:
        found = sums_of(model, batch)
        sums = {key: sums.get(key, 0.0) + float(value) for key, value in found.items()}
        weights_BL = np.asarray(batch.weights_BL)
        np.add.at(counts_V, np.asarray(batch.targets_BL), weights_BL)
    if not sums:
        raise ValueError("no held-out rows to measure perplexity on; hold out more")
    means = step.means(sums)
    ids_V = np.arange(vocab.size)
    return {
        "perplexity_text": means["perplexity_text"],
        "perplexity_text_guess": unigram_perplexity(counts_V[vocab.is_text(ids_V)]),
        "perplexity_image": means["perplexity_image"],
        "perplexity_image_guess": unigram_perplexity(counts_V[vocab.is_image(ids_V)]),
    }


def unigram_perplexity(counts_V: np.ndarray) -> float:
    """Returns exp of the entropy of counts.

    counts [1 1 2]    entropy 1.04 nats    perplexity 2.83

    Args:
      counts_V: float[V], not negative.
    """
    shares_V = counts_V[counts_V > 0] / max(1.0, counts_V.sum())
    return float(np.exp(-(shares_V * np.log(shares_V)).sum()))
