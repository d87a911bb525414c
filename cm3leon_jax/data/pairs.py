"""Endless batches of small pictures beside the large ones that they come from.

A pair is a crop: of what the blind degradation makes of the large picture, or of what
the image tokenizer makes of its plain reduction; the two kinds of artefact that a
super-resolution network meets.

Letters: N pictures, B pairs a batch, Y and X rows and columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cm3leon_jax.data import degradation
from cm3leon_jax.data.shuffled import Shuffled


class Pair(NamedTuple):
    """A batch.

    Attributes:
      small: uint8[B, Y, X, 3].
      large: uint8[B, scale Y, scale X, 3].
    """

    small: np.ndarray
    large: np.ndarray


class Pairs:
    """Batches that depend on the seed and on their number alone."""

    def __init__(
        self,
        large_NYXC: np.ndarray,
        tokenised_NYXC: np.ndarray | None,
        config: degradation.DegradationConfig,
        *,
        scale: int,
        batch_size: int,
        crop_size: int,
        tokenised_share: float,
        seed: int,
    ):
        """Takes the pictures.

        Args:
          large_NYXC: uint8[N, Y, X, 3].
          tokenised_NYXC: uint8[N, Y / scale, X / scale, 3], their reductions after a
            round trip through the image tokenizer; None for none.
          config: of the degradation.
          scale: how many times smaller a side becomes.
          batch_size: pairs a batch.
          crop_size: pixels a side of a small crop.
          tokenised_share: of pairs whose small picture is a tokenised one.
          seed: decides everything.

        Raises:
          ValueError: if a crop is larger than a picture, the sizes do not fit, or there
            are too few pictures.
        """
        side = large_NYXC.shape[1]
        if side % scale or not 1 <= crop_size <= side // scale:
            raise ValueError(
                f"crops of {crop_size} pixels, enlarged {scale} times, do not fit into"
                f" pictures of {side}; take crops of at most {side // scale}, and a size"
                f" that {scale} divides"
            )
        if tokenised_NYXC is None and tokenised_share > 0:
            raise ValueError(
                f"{tokenised_share=} asks for tokenised pictures, but there is no image"
                " tokenizer; set config.tokenizer, or the share to 0"
            )
        if tokenised_NYXC is not None and tokenised_NYXC.shape[1] * scale != side:
            raise ValueError(
                f"the image tokenizer makes pictures of {tokenised_NYXC.shape[1]}"
                f" pixels; enlarged {scale} times they are not of {side}"
            )
        numbers = np.arange(len(large_NYXC))
        self._numbers = Shuffled(numbers, batch_size, seed=seed)
        self._large, self._tokenised, self._config = large_NYXC, tokenised_NYXC, config
        self._scale, self._crop, self._share = scale, crop_size, tokenised_share
        self._seed = seed

    def __next__(self) -> Pair:
        """Returns the next batch."""
        step = self.get_state()
        found = [
            self._pair(number, np.random.default_rng([self._seed, step, place]))
            for place, number in enumerate(next(self._numbers))
        ]
        return Pair(*(np.stack(side) for side in zip(*found, strict=True)))

    def get_state(self) -> int:
        """Returns the number of batches given."""
        return self._numbers.get_state()

    def set_state(self, state: int) -> None:
        """Continues after that many batches."""
        self._numbers.set_state(state)

    def _pair(self, number: int, rng: np.random.Generator):
        scale, crop = self._scale, self._crop
        picture = self._large[number]
        top, left = rng.integers(0, picture.shape[0] // scale - crop + 1, 2)
        cut = lambda x, k: x[k * top : k * (top + crop), k * left : k * (left + crop)]
        large = cut(picture, scale)
        if self._tokenised is not None and rng.random() < self._share:
            small = cut(self._tokenised[number], 1)
        else:
            small = degradation.degrade(large, scale, self._config, rng)
        if rng.random() < 0.5:
            small, large = small[:, ::-1], large[:, ::-1]
        return small, large
