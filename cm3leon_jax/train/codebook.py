"""What keeps a codebook alive while it is trained: counts, averages, revival.

A codebook left to the gradient collapses: entries that win no latent get no gradient
and never win again. Here the use of every entry is counted, entries may follow the mean
of the latents that they win, and entries out of use are set upon latents that are
badly served. At the first step nothing has been counted, so that every entry starts
from a latent.

Letters: C codebook entries, N latents of a batch (all codes of all pictures), D width.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

_GOLDEN_RATIO = 0.6180339887  # its multiples, modulo 1, never come close to repeating
_COMB_PERIOD = 4096  # steps; larger products lose their digits in float32


@dataclasses.dataclass(frozen=True)
class CodebookConfig:
    """How a codebook is trained.

    Attributes:
      use_mean: entries are the moving mean of their latents, and get no gradient
        (VQ-VAE, arXiv:1711.00937, appendix A.1); else the gradient moves them.
      decay: of the moving counts and sums, a step.
      dead_share: an entry is out of use when its count is below this share of what
        each would have if all were used alike.
      revive_until: share of the training after which nothing is revived, so that
        the codes come to rest.
    """

    use_mean: bool = False
    decay: float = 0.99
    dead_share: float = 0.02
    revive_until: float = 0.8


class CodeCounts(NamedTuple):
    """Moving sums over the latents that each entry won.

    Attributes:
      counts_C: float32[C], latents a step.
      sums_CD: float32[C, D], their sum.
    """

    counts_C: jax.Array
    sums_CD: jax.Array


def init(entries_CD: jax.Array, count: float = 0.0) -> CodeCounts:
    """Returns the counts before the first step.

    Args:
      entries_CD: float32[C, D].
      count: latents a step that each entry is taken to have won; with 0 every entry is
        revived at the first step, which would undo a codebook that is trained already.
    """
    counts_C = jnp.full(entries_CD.shape[0], count, entries_CD.dtype)
    return CodeCounts(counts_C, count * entries_CD)


def count(codes_N: jax.Array, latents_ND: jax.Array, size: int) -> CodeCounts:
    """Returns what each entry won in this batch.

    Args:
      codes_N: int32[N], in [0, size).
      latents_ND: float32[N, D].
      size: number C of entries.
    """
    counts_C = jnp.zeros(size).at[codes_N].add(1.0)
    return CodeCounts(
        counts_C, jnp.zeros((size, latents_ND.shape[1])).at[codes_N].add(latents_ND)
    )


def update(
    entries_CD: jax.Array,
    counts: CodeCounts,
    codes_N: jax.Array,
    latents_ND: jax.Array,
    *,
    config: CodebookConfig,
    step: jax.Array,
    can_revive: jax.Array,
) -> tuple[jax.Array, CodeCounts, dict[str, jax.Array]]:
    """Moves the entries after a step; the same arguments give the same entries.

    Args:
      entries_CD: float32[C, D], after the gradient's step.
      counts: of the steps before.
      codes_N: int32[N], the entries that the latents chose.
      latents_ND: float32[N, D], without gradient.
      config: how.
      step: int32[], steps done; decides which latents revive entries.
      can_revive: bool[].

    Returns:
      The entries, the counts, and scalars: `perplexity` of this batch's codes (the
      number of entries that equal use would need), `usage` (share of all entries in
      use lately), `revived` (entries).
    """
    size, num_latents = entries_CD.shape[0], codes_N.shape[0]
    now = count(codes_N, latents_ND, size)
    old, new = config.decay, 1.0 - config.decay
    counts_C = old * counts.counts_C + new * now.counts_C
    sums_CD = old * counts.sums_CD + new * now.sums_CD
    fair = num_latents / size
    dead_C = counts_C < config.dead_share * fair
    revived_C = dead_C & can_revive
    if config.use_mean:
        means_CD = sums_CD / jnp.maximum(counts_C, 1e-12)[:, None]
        # An entry that won nothing for long has no mean worth having.
        entries_CD = jnp.where(dead_C[:, None], entries_CD, means_CD)
    seeds_CD = _badly_served(entries_CD, revived_C, codes_N, latents_ND, step)
    entries_CD = jnp.where(revived_C[:, None], seeds_CD, entries_CD)
    counts_C = jnp.where(revived_C, fair, counts_C)
    sums_CD = jnp.where(revived_C[:, None], fair * seeds_CD, sums_CD)
    share_C = now.counts_C / num_latents
    entropy = -jnp.sum(share_C * jnp.log(share_C + 1e-10))
    metrics = {
        "perplexity": jnp.exp(entropy),
        "usage": jnp.mean(~dead_C, dtype=jnp.float32),
        "revived": jnp.sum(revived_C, dtype=jnp.float32),
    }
    return entries_CD, CodeCounts(counts_C, sums_CD), metrics


def _badly_served(
    entries_CD: jax.Array,
    revived_C: jax.Array,
    codes_N: jax.Array,
    latents_ND: jax.Array,
    step: jax.Array,
) -> jax.Array:
    """Returns a latent for each revived entry, chosen by its squared distance.

    Systematic sampling: the latents lie end to end, each as long as its squared
    distance from its own entry; a comb with a tooth for each revived entry is laid
    over them, and where it begins moves from step to step by the golden ratio. So the
    choice is as even as can be, and needs no random numbers.
    """
    error_N = jnp.sum((latents_ND - entries_CD[codes_N]) ** 2, axis=-1) + 1e-9
    ends_N = jnp.cumsum(error_N)
    rank_C = jnp.cumsum(revived_C) - 1
    begin = jnp.mod((step % _COMB_PERIOD) * _GOLDEN_RATIO, 1.0)
    tooth_C = (rank_C + begin) / jnp.maximum(jnp.sum(revived_C), 1)
    drawn_C = jnp.searchsorted(ends_N, tooth_C * ends_N[-1], side="right")
    return latents_ND[jnp.minimum(drawn_C, latents_ND.shape[0] - 1)]
