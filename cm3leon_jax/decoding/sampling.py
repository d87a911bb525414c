"""How ids are drawn: the settings of a request, and of a batch as arrays.

`Sampling` is what a person sets. `table` lays the settings of a batch out as arrays, so
that other numbers need no other compiled function, and `steer` applies them: streams to
one, temperature, a rule of its own (`decoding/rules/`), filters, in this order.

Letters: B rows, S streams, V the ids at hand.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.decoding import logits, rules


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How an id is drawn from its logits.

    Attributes:
      temperature: 0 takes the most probable id.
      top_k: Ids kept; 0 keeps all.
      top_p: Probability mass kept, in (0, 1].
      guidance: Scale of the text over the unconditional stream; 1 is none.
      image_guidance: Scale of the picture alone, for requests with three streams.
      contrast_k: Contrastive CD-K's k; 0 is off.
      contrast_alpha: Share of the k-th probability that an id must reach, in [0, 1].
      amateur_temperature: Temperature of the stream without text, for CD-K.
      rule: A file of `decoding/rules/` that changes the logits; empty for none.

    Raises:
      ValueError: If a value is out of range, the rule is unknown, or CD-K meets guidance.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    image_guidance: float = 1.0
    contrast_k: int = 0
    contrast_alpha: float = 0.5
    amateur_temperature: float = 1.0
    rule: str = ""

    def __post_init__(self):
        ranges = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0 (0 keeps all)"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("contrast_k", self.contrast_k >= 0, "at least 0 (0 is off)"),
            ("contrast_alpha", 0 <= self.contrast_alpha <= 1, "in [0, 1]"),
            ("amateur_temperature", self.amateur_temperature > 0, "positive"),
            ("guidance", np.isfinite(self.guidance), "finite"),
            ("image_guidance", np.isfinite(self.image_guidance), "finite"),
        )
        for name, is_right, what in ranges:
            if not is_right:
                raise ValueError(f"{name}={getattr(self, name)} must be {what}")
        if self.rule:
            known = [one.name for one in pkgutil.iter_modules(rules.__path__)]
            if self.rule not in known:
                text = f"sampling.rule={self.rule!r} is unknown; known: {known}"
                raise ValueError(text)
        if self.contrast_k and self.is_guided:
            raise ValueError(
                f"contrast_k={self.contrast_k} and guidance={self.guidance} both use"
                " the unconditional stream; set contrast_k=0 or guidance=1"
            )

    @property
    def is_filtered(self) -> bool:
        """True if some ids are kept from being drawn."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def is_guided(self) -> bool:
        """True if a second prompt steers the first."""
        return self.guidance != 1 or self.image_guidance != 1


PLAIN = Sampling()


class Table(NamedTuple):
    """`Sampling` of a batch as arrays, float32[B]; counts are int32[B]."""

    temperature_B: Any
    top_k_B: Any
    top_p_B: Any
    guidance_B: Any
    image_guidance_B: Any
    contrast_k_B: Any
    contrast_alpha_B: Any
    amateur_temperature_B: Any


_COUNTS = ("top_k_B", "contrast_k_B")


def table(samplings: Sequence[Sampling]) -> Table:
    """Lays the settings of a batch out as arrays."""
    columns = {}
    for name in Table._fields:
        values = [getattr(sampling, name.removesuffix("_B")) for sampling in samplings]
        columns[name] = np.array(values, np.int32 if name in _COUNTS else np.float32)
    return Table(**columns)


def steer(
    logits_SBV: jax.Array,
    allowed_BV: jax.Array,
    settings: Table,
    is_contrast: bool,
    is_filtered: bool,
    rule: str = "",
) -> jax.Array:
    """Returns the logits that an id is drawn from.

    Args:
      logits_SBV: float32[S, B, V]: the whole prompt, without text, picture alone.
      allowed_BV: bool[B, V], at least one True a row.
      settings: Of the batch.
      is_contrast: Two streams are contrasted, not guided; static.
      is_filtered: Some row has a top-k or top-p; static, it saves the sorting.
      rule: Of all rows; static.

    Returns:
      float32[B, V], -inf where not allowed or filtered.
    """
    num_streams = logits_SBV.shape[0]
    temperature_B1 = settings.temperature_B[:, None]
    temperature_B1 = jnp.where(temperature_B1 > 0, temperature_B1, 1.0)
    if is_contrast:
        # Both predictions are over the allowed ids alone.
        steered_BV = logits.contrast(
            jnp.where(allowed_BV, logits_SBV[0] / temperature_B1, -jnp.inf),
            jnp.where(allowed_BV, logits_SBV[1], -jnp.inf),
            settings.contrast_k_B,
            settings.contrast_alpha_B,
            settings.amateur_temperature_B,
        )
    else:
        steered_BV = logits_SBV[0]
        if num_streams == 2:
            steered_BV = logits.guide(steered_BV, logits_SBV[1], settings.guidance_B)
        elif num_streams == 3:
            steered_BV = logits.guide_two(
                steered_BV,
                logits_SBV[2],
                logits_SBV[1],
                settings.guidance_B,
                settings.image_guidance_B,
            )
        steered_BV = jnp.where(allowed_BV, steered_BV / temperature_B1, -jnp.inf)
    if rule:
        steered_BV = importlib.import_module(f"{rules.__name__}.{rule}").steer(
            steered_BV
        )
    if is_filtered:
        steered_BV = logits.keep_top_k(steered_BV, settings.top_k_B)
        steered_BV = logits.keep_top_p(steered_BV, settings.top_p_B)
    return steered_BV
