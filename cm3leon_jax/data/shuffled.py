"""Endless batches of an array in memory, in a new order every time round."""

import numpy as np


class Shuffled:
    """Batches that depend on the seed and on their number alone.

    Every row is seen once before any is seen again; rows that do not fill the last
    batch of a round are left out of that round.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, *, seed: int = 0):
        """Takes the rows.

        Args:
          rows: any[N, ...].
          batch_size: rows a batch.
          seed: decides the orders.

        Raises:
          ValueError: if there are fewer rows than a batch holds.
        """
        if len(rows) < batch_size:
            raise ValueError(
                f"{len(rows)} pictures do not fill a batch of {batch_size}; add"
                " pictures or lower batch_size"
            )
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._step, self._round, self._order = 0, -1, np.zeros(0, np.int64)

    def __next__(self) -> np.ndarray:
        """Returns any[batch_size, ...]."""
        number, place = divmod(self._step, len(self._rows) // self._batch_size)
        if number != self._round:
            rng = np.random.default_rng([self._seed, number])
            self._round, self._order = number, rng.permutation(len(self._rows))
        self._step += 1
        start = place * self._batch_size
        return self._rows[self._order[start : start + self._batch_size]]

    def get_state(self) -> int:
        """Returns the number of batches given."""
        return self._step

    def set_state(self, state: int) -> None:
        """Continues after that many batches."""
        self._step = state
