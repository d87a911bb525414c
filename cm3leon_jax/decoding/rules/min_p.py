"""Keeps the ids that have at least a tenth of the largest probability (min-p).

    probabilities  [0.50 0.30 0.15 0.04 0.01]
    kept           [yes  yes  yes  no   no  ]

Where the model is sure little is kept, where it is not, much: top-p keeps a share of the
mass instead, whatever its shape.

Letters: B rows, V the ids at hand.

Source: Nguyen et al., arXiv:2407.01082.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

SHARE = 0.1  # of the largest probability


def steer(logits_BV: jax.Array) -> jax.Array:
    """Returns the logits, -inf where an id is too improbable.

    Args:
      logits_BV: float32[B, V].
    """
    largest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    return jnp.where(logits_BV >= largest_B1 + math.log(SHARE), logits_BV, -jnp.inf)
