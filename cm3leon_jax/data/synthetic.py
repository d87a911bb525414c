"""Made-up rows in the shape of real ones: for timing a step where there is no data.

Rows are full and of one segment, as concatenate-and-cut packing gives them: a text of a
few dozen pieces, `<break>`, a picture's codes, `</s>`, and again. Ids are drawn at
random, so there is nothing to learn but how frequent they are; the loss of a sound step
falls from log(vocabulary) towards the entropy of that.
"""

from __future__ import annotations

import numpy as np

from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.vocab import Vocab

_TEXT_LENGTH = 48  # pieces of a caption, about what captions of the paper's kind have


class Batches:
    """An endless iterator of made-up batches that knows its place.

    Batch n is a function of the seed, the host and n; restoring a place costs nothing.
    """

    def __init__(
        self, vocab: Vocab, *, num_rows: int, length: int, seed: int = 0, host: int = 0
    ):
        """Draws nothing yet.

        Args:
          vocab: whose ids are drawn.
          num_rows: of this host's share of a batch.
          length: tokens a row, L.
          seed: decides the ids.
          host: number of this host; each has its own rows.

        Raises:
          ValueError: if there are no rows or no tokens.
        """
        if num_rows < 1 or length < 1:
            raise ValueError(f"{num_rows=} and {length=} must be at least 1")
        self._vocab = vocab
        self._shape = (num_rows, length + 1)
        self._key = (seed, host)
        self._next = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch, int32 and float32 [num_rows, L]."""
        ids = self._draw(np.random.default_rng((*self._key, self._next)))
        self._next += 1
        rows, length = self._shape[0], self._shape[1] - 1
        return Batch(
            tokens_BL=np.ascontiguousarray(ids[:, :-1]),
            targets_BL=np.ascontiguousarray(ids[:, 1:]),
            weights_BL=np.ones((rows, length), np.float32),
            segment_ids_BL=np.ones((rows, length), np.int32),
            positions_BL=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        )

    def get_state(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"next": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues with the batch of that number."""
        self._next = state["next"]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Documents side by side, each row beginning at its own place in one."""
        v = self._vocab
        period = _TEXT_LENGTH + v.codes_per_image + 2
        start_R1 = rng.integers(0, period, (self._shape[0], 1))
        place = (start_R1 + np.arange(self._shape[1])[None]) % period
        text = rng.integers(v.UNK + 1, v.text_size, self._shape, np.int32)
        codes = v.image_ids(rng.integers(0, v.image_size, self._shape, np.int32))
        ids = np.where(place < _TEXT_LENGTH, text, codes)
        ids = np.where(place == _TEXT_LENGTH, v.break_id, ids)
        return np.where(place == period - 1, v.EOS, ids).astype(np.int32)
