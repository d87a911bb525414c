"""How much of a mixture each set is: wanted weights, limits, and shares that are fixed.

    sizes    coco 591k   okvqa 26k   vqa2 1.3M     wanted alike: 639k each
    factors  1.08        24.6 -> 3   0.49          with limits 0.3 and 3
    weights  639k        78k         639k          documents an epoch of the mixture

A factor is how often an epoch of the mixture sees each of a set's documents; without
limits a small set would be seen until it is known by heart, and a large one hardly.

Source: CM3Leon, arXiv:2309.02591, section 4 and appendix E.1 (up- and down-sampling with
the thresholds 3 and 0.3; how they apply is not said).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

PAPER_LIMITS = (0.3, 3.0)


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """What decides the weights beside those that are wanted.

    Attributes:
      limits: Smallest and largest factor; none: wanted weights are taken as they are.
      shares: Sets that are a fixed share of all documents, whatever the others weigh:
        the pretraining documents.

    Raises:
      ValueError: If limits are out of order, or shares do not leave room.
    """

    limits: tuple[float, ...] = ()
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "limits", tuple(self.limits))
        limits = self.limits
        if limits and not (len(limits) == 2 and 0 < limits[0] <= 1 <= limits[1]):
            raise ValueError(
                f"mixture.limits={limits} must be two factors, the first at most 1 and"
                " above 0, the second at least 1; or empty"
            )
        total = sum(self.shares.values())
        if not all(share > 0 for share in self.shares.values()) or not total <= 1:
            raise ValueError(
                f"mixture.shares={dict(self.shares)} must be above 0 and sum to at most 1"
            )


def weights(
    sizes: Mapping[str, int], wanted: Mapping[str, float], config: MixtureConfig
) -> dict[str, float]:
    """Returns the weight of every set, in the order of `wanted`.

    Args:
      sizes: Documents of each set that is wanted.
      wanted: How much of the mixture each should be; those without are left out. Of a
        set with a fixed share it says only that it is there.
      config: Limits and fixed shares.

    Raises:
      ValueError: If nothing is wanted, a weight is no number above 0, a set is empty, or
        a share is of no set.
    """
    named = {name: float(weight) for name, weight in wanted.items() if weight}
    _check(named, sizes, config)
    free = {name: one for name, one in named.items() if name not in config.shares}
    found = dict(free)
    if config.limits and free:
        total, of = sum(sizes[name] for name in free), sum(free.values())
        low, high = config.limits
        for name, weight in free.items():
            factor = weight / of * total / sizes[name]
            found[name] = sizes[name] * min(max(factor, low), high)
    left = 1 - sum(config.shares.values())
    if free and config.shares and left <= 0:
        raise ValueError(
            f"mixture.shares leave nothing for {', '.join(free)}; lower them"
        )
    per_share = sum(found.values()) / left if free else 1.0
    for name, share in config.shares.items():
        found[name] = share * per_share
    return {name: found[name] for name in named}


def _check(
    named: Mapping[str, float], sizes: Mapping[str, int], config: MixtureConfig
) -> None:
    if not named:
        raise ValueError("the weights of the sets sum to nothing; give one a weight")
    for name, weight in named.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"sets.{name}={weight} must be a number, not below 0")
        if not sizes[name]:
            raise ValueError(f"set {name!r} is empty; give it weight 0 or fill it")
    for name in config.shares:
        if name not in named:
            raise ValueError(
                f"mixture.shares names {name!r}, which is no set with weight; known:"
                f" {', '.join(named)}"
            )
