"""Log-probabilities of given continuations, as the training loss has them.

Letters: B rows, L sequence, V vocabulary, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.decoding import engine
from cm3leon_jax.decoding.engine import Shapes
from cm3leon_jax.models import transformer

_CHUNK = 64  # positions whose logits over the whole vocabulary are held at once


def scores(
    model: transformer.Transformer,
    prompts: Sequence[np.ndarray],
    continuations: Sequence[np.ndarray],
    shapes: Shapes = engine.DEFAULT_SHAPES,
) -> list[np.ndarray]:
    """Returns log p(id | everything before it) of given continuations.

    Over the whole vocabulary, as the training loss has it.

    Args:
      model: Stacked or unstacked.
      prompts: int[n] each, at least one id.
      continuations: int[m] each.
      shapes: Padded shapes; `prompt_lengths` bounds prompt and continuation together.

    Returns:
      float32[m] each, natural logarithm.
    """
    sequences = [
        np.concatenate(pair) for pair in zip(prompts, continuations, strict=True)
    ]
    results: list[np.ndarray] = []
    for batch in engine.batches(range(len(sequences)), shapes.rows[-1]):
        rows = engine.smallest(len(batch), shapes.rows, "requests a batch")
        longest = max(len(sequences[index]) for index in batch)
        length = engine.smallest(longest, shapes.prompt_lengths, "ids")
        engine.check_positions(longest, model.config.max_length)
        tokens_BL = np.zeros((rows, length), np.int32)
        segments_BL = np.zeros((rows, length), np.int32)
        for row, index in enumerate(batch):
            tokens_BL[row, : len(sequences[index])] = sequences[index]
            segments_BL[row, : len(sequences[index])] = 1
        scores_BL = np.asarray(_score(model, tokens_BL, segments_BL))
        for row, index in enumerate(batch):
            start, end = len(prompts[index]) - 1, len(sequences[index]) - 1
            results.append(scores_BL[row, start:end])
    return results


@jax.jit
def _score(
    model: transformer.Transformer, tokens_BL: jax.Array, segments_BL: jax.Array
) -> jax.Array:
    """Log-probability of each next id, float32[B, L - 1], by chunks of positions."""
    rows, length = tokens_BL.shape
    positions_BL = jnp.broadcast_to(jnp.arange(length)[None], (rows, length))
    positions_BL = jnp.minimum(positions_BL, model.config.max_length - 1)
    x_BLD = model(tokens_BL, positions_BL, segments_BL)
    parts = []
    for start in range(0, length - 1, _CHUNK):
        end = min(start + _CHUNK, length - 1)
        log_probs_BLV = jax.nn.log_softmax(model.head(x_BLD[:, start:end]), axis=-1)
        next_BL1 = tokens_BL[:, start + 1 : end + 1, None]
        parts.append(jnp.take_along_axis(log_probs_BLV, next_BL1, axis=-1)[..., 0])
    return jnp.concatenate(parts, axis=1)
