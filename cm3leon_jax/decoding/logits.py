"""Pure functions from logits to logits: what is done to them before an id is drawn.

    filters      `keep_top_k`, `keep_top_p`: ids that may not be drawn become -inf
    streams      `guide`, `guide_two`, `contrast`: several logits of the same ids,
                 from several prompts, become one
    drawing      `draw`: one id a row, by the Gumbel maximum

Every function works on the ids that it is given: inside an image these are the image
codes alone. A filtered id is -inf; a row keeps at least one id always.

Letters: B rows, V the ids at hand (a slice of the vocabulary).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def keep_top_k(logits_BV: jax.Array, k_B: jax.Array) -> jax.Array:
    """Keeps the k largest logits of each row; ties with the k-th are kept too.

        logits  [2. 1. 3. 0.]  k = 2
        result  [2. -inf 3. -inf]

    Args:
      logits_BV: float32[B, V].
      k_B: int32[B]; 0, or V and more, keep everything.
    """
    chex.assert_rank([logits_BV, k_B], [2, 1])
    size = logits_BV.shape[1]
    descending_BV = -jnp.sort(-logits_BV, axis=-1)
    index_B1 = jnp.clip(k_B - 1, 0, size - 1)[:, None]
    least_B1 = jnp.take_along_axis(descending_BV, index_B1, axis=-1)
    is_open_B1 = ((k_B <= 0) | (k_B >= size))[:, None]
    return jnp.where((logits_BV >= least_B1) | is_open_B1, logits_BV, -jnp.inf)


def keep_top_p(logits_BV: jax.Array, p_B: jax.Array) -> jax.Array:
    """Keeps the fewest most probable ids whose probabilities reach p (nucleus).

    The most probable id is kept always; p = 1 keeps everything.

        probabilities  [0.5 0.3 0.15 0.05]  p = 0.7
        kept           [yes yes no   no]      (0.5 alone does not reach 0.7)

    Args:
      logits_BV: float32[B, V].
      p_B: float32[B] in (0, 1].

    Source: Holtzman et al., arXiv:1904.09751.
    """
    chex.assert_rank([logits_BV, p_B], [2, 1])
    descending_BV = -jnp.sort(-logits_BV, axis=-1)
    probs_BV = jax.nn.softmax(descending_BV, axis=-1)
    # An id is kept if those before it have not reached p yet: the first always is.
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    is_kept_BV = before_BV < p_B[:, None]
    least_B1 = jnp.min(
        jnp.where(is_kept_BV, descending_BV, jnp.inf), axis=-1, keepdims=True
    )
    least_B1 = jnp.minimum(least_B1, descending_BV[:, :1])
    is_open_B1 = (p_B >= 1)[:, None]
    return jnp.where((logits_BV >= least_B1) | is_open_B1, logits_BV, -jnp.inf)


def guide(
    conditional_BV: jax.Array, unconditional_BV: jax.Array, scale_B: jax.Array
) -> jax.Array:
    """Classifier-free guidance: `uncond + scale * (cond - uncond)`.

    A scale of 1 gives the conditional logits, 0 the unconditional ones.

    Args:
      conditional_BV: float32[B, V], logits after the whole prompt.
      unconditional_BV: float32[B, V], logits after `</s> <sentinel:0> <break>`.
      scale_B: float32[B].

    Source: CM3Leon, arXiv:2309.02591, section 3.2.
    """
    scale_B1 = scale_B[:, None]
    guided_BV = unconditional_BV + scale_B1 * (conditional_BV - unconditional_BV)
    # Exactly the conditional logits at 1, not up to rounding.
    return jnp.where(scale_B1 == 1, conditional_BV, guided_BV)


def guide_two(
    full_BV: jax.Array,
    image_BV: jax.Array,
    unconditional_BV: jax.Array,
    text_scale_B: jax.Array,
    image_scale_B: jax.Array,
) -> jax.Array:
    """Guidance with a scale for the image and one for the instruction.

    `uncond + image_scale * (image - uncond) + text_scale * (full - image)`; both
    scales 1 give the full prompt's logits.

    Args:
      full_BV: float32[B, V], logits after picture and instruction.
      image_BV: float32[B, V], logits after the picture without the instruction.
      unconditional_BV: float32[B, V], logits after neither.
      text_scale_B: float32[B]; 7.5 in the paper.
      image_scale_B: float32[B]; 1.5 in the paper.

    Source: InstructPix2Pix, arXiv:2211.09800, equation 3; scales from CM3Leon.
    """
    image_scale_B1, text_scale_B1 = image_scale_B[:, None], text_scale_B[:, None]
    guided_BV = (
        unconditional_BV
        + image_scale_B1 * (image_BV - unconditional_BV)
        + text_scale_B1 * (full_BV - image_BV)
    )
    is_plain_B1 = (image_scale_B1 == 1) & (text_scale_B1 == 1)
    return jnp.where(is_plain_B1, full_BV, guided_BV)


def contrast(
    expert_BV: jax.Array,
    amateur_BV: jax.Array,
    k_B: jax.Array,
    alpha_B: jax.Array,
    amateur_temperature_B: jax.Array,
) -> jax.Array:
    """Contrastive decoding CD-K: the log ratio of two predictions, after a cut.

    An id stays if `p_expert >= alpha * (k-th largest p_expert)`; its score is
    `log p_expert - log p_amateur`. With k = 1 this is the published rule. The expert's
    temperature is applied to its logits before.

        expert  [.5 .3 .2 0.]  amateur [.25 .25 .25 .25]  k = 1, alpha = 0.5
        score   [log 2, log 1.2, -inf, -inf]

    Args:
      expert_BV: float32[B, V], logits after the prompt; -inf where not allowed.
      amateur_BV: float32[B, V], logits without the text.
      k_B: int32[B] of at least 1.
      alpha_B: float32[B] in [0, 1].
      amateur_temperature_B: float32[B], positive.

    Source: CM3Leon, arXiv:2309.02591, equation 3; Li et al., arXiv:2210.15097.
    """
    chex.assert_equal_shape([expert_BV, amateur_BV])
    size = expert_BV.shape[1]
    expert_BV = jax.nn.log_softmax(expert_BV, axis=-1)
    amateur_BV = jax.nn.log_softmax(
        amateur_BV / amateur_temperature_B[:, None], axis=-1
    )
    descending_BV = -jnp.sort(-expert_BV, axis=-1)
    index_B1 = jnp.clip(k_B - 1, 0, size - 1)[:, None]
    kth_B1 = jnp.take_along_axis(descending_BV, index_B1, axis=-1)
    cut_B1 = kth_B1 + jnp.log(alpha_B[:, None])
    is_kept_BV = (expert_BV >= cut_B1) & (expert_BV > -jnp.inf)
    return jnp.where(is_kept_BV, expert_BV - amateur_BV, -jnp.inf)


def draw(
    logits_BV: jax.Array, noise_BV: jax.Array, is_greedy_B: jax.Array
) -> jax.Array:
    """Draws one id a row from the softmax of its logits.

    The largest of logits plus Gumbel noise is distributed as the softmax; without the
    noise it is the most probable id.

    Args:
      logits_BV: float32[B, V], temperature and filters already applied.
      noise_BV: float32[B, V], standard Gumbel noise, each row from its own key.
      is_greedy_B: bool[B], True where the noise is left out.

    Returns:
      int32[B], columns of `logits_BV`.
    """
    noise_BV = jnp.where(is_greedy_B[:, None], 0.0, noise_BV)
    return jnp.argmax(logits_BV + noise_BV, axis=-1).astype(jnp.int32)
