"""Stops a VQGAN's training that has gone wrong: collapse, divergence.

Both are known, and neither shows in a loss that is still finite:

    collapse     nearly all latents share a few codes; an entry that wins nothing gets
                 no gradient and never wins again
    divergence   pictures become worse than they were, mostly when the discriminator
                 starts: its term outgrows the reconstruction's

Against them stand revival (`codebook.py`), the adaptive weight and the adversarial ramp
(`pixels.py`). This guard is for when they were not enough, or were switched off: it ends
the run with the name of what happened, and the checkpoints are from before.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

_DECAY = 0.98  # of the running means: about the last fifty steps


@dataclasses.dataclass(frozen=True)
class PixelGuardConfig:
    """When a run counts as gone wrong.

    Attributes:
      min_perplexity: smallest number of codes in equal use (the running mean of the
        batches' perplexity); 0 for never.
      max_rise: largest running mean of the reconstruction terms, in multiples of the
        smallest that it has been; 0 for never.
      after_steps: steps before either is looked at.
    """

    min_perplexity: float = 0.0
    max_rise: float = 0.0
    after_steps: int = 1_000

    def __post_init__(self):
        """Refuses a rise that is met at once."""
        if self.max_rise and self.max_rise <= 1:
            raise ValueError(
                f"guard.max_rise={self.max_rise} must be above 1, or 0 for never; try 2"
            )


class PixelGuard:
    """Looks at the numbers of every step.

    It begins anew when a run is resumed, so that it may see a slow decay later then,
    and never sees one that is not there.
    """

    def __init__(self, config: PixelGuardConfig):
        """Has seen nothing yet."""
        self._config = config
        self._num_seen = 0
        self._perplexity = self._error = 0.0
        self._least = float("inf")

    def inspect(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes a step's numbers: `perplexity`, `reconstruction`.

        Raises:
          FloatingPointError: naming collapse or divergence, and what helps.
        """
        if not self._config.min_perplexity and not self._config.max_rise:
            return
        values = jax.device_get([metrics["perplexity"], metrics["reconstruction"]])
        perplexity, error = (float(value) for value in values)
        self._num_seen += 1
        # Equal weights at first, so that the first step does not count for long.
        share = max(1.0 - _DECAY, 1.0 / self._num_seen)
        self._perplexity += share * (perplexity - self._perplexity)
        self._error += share * (error - self._error)
        if step <= self._config.after_steps:
            return
        self._least = min(self._least, self._error)
        if self._perplexity < self._config.min_perplexity:
            raise FloatingPointError(
                f"step {step}: collapse: the codes in use are as many as"
                f" {self._perplexity:.1f}, at least {self._config.min_perplexity:g} are"
                " asked for; raise codebook.dead_share or codebook.revive_until, or"
                " lower the learning rate"
            )
        if self._config.max_rise and self._error > self._config.max_rise * self._least:
            raise FloatingPointError(
                f"step {step}: divergence: the reconstruction terms have risen from"
                f" {self._least:.3g} to {self._error:.3g}, more than"
                f" {self._config.max_rise:g} times; start the discriminator later, ramp"
                " it longer (loss.adversarial_ramp) or lower loss.adversarial_weight"
            )
