"""The same search by FAISS, for whoever has it: `IndexFlatIP`, exact, on the CPU.

Answers are those of `index.Index` but for the order of equal scores, which FAISS leaves
open: of equals at the last place, another may be found.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from cm3leon_jax.retrieval import chunks


class FaissIndex:
    """A bank of vectors in a FAISS index.

    Attributes:
      num_rows: Bank rows M.
    """

    def __init__(self, bank_ME: np.ndarray):
        """Fills the index.

        Args:
          bank_ME: float[M, E]; rows that are not finite are never found.

        Raises:
          ImportError: If FAISS is not installed.
          ValueError: If `bank_ME` is no matrix or has no row.
        """
        bank_ME = np.asarray(bank_ME, np.float32)
        if bank_ME.ndim != 2 or not len(bank_ME):
            raise ValueError(
                f"a bank is float[M, E] with at least one row, got {bank_ME.shape}"
            )
        self.num_rows, self._width = bank_ME.shape
        self._rows = np.flatnonzero(np.isfinite(bank_ME).all(axis=1)).astype(np.int32)
        self._index = _flat_index(self._width)
        self._index.add(bank_ME[self._rows])

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best `k` rows of each query, as `index.Index.search` does.

        Raises:
          ValueError: If `k` or the width is wrong.
        """
        queries_NE = np.asarray(queries_NE, np.float32)
        if queries_NE.ndim != 2 or queries_NE.shape[1] != self._width or k < 1:
            raise ValueError(
                f"queries are float[N, {self._width}] like the bank and k at least 1,"
                f" got {queries_NE.shape} and {k}"
            )
        is_known_N = np.isfinite(queries_NE).all(axis=1)
        scores_NK = np.full((len(queries_NE), k), -np.inf, np.float32)
        rows_NK = np.full((len(queries_NE), k), chunks.NONE, np.int32)
        if not len(self._rows) or not is_known_N.any():
            return scores_NK, rows_NK
        found, places = self._index.search(
            np.ascontiguousarray(queries_NE[is_known_N]), min(k, len(self._rows))
        )
        width = found.shape[1]
        rows = self._rows[places]
        # Equal scores in the order of their rows, as far as FAISS returned them.
        order = np.lexsort((rows, -found), axis=1)
        scores_NK[is_known_N, :width] = np.take_along_axis(found, order, axis=1)
        rows_NK[is_known_N, :width] = np.take_along_axis(rows, order, axis=1)
        return scores_NK, rows_NK


def _flat_index(width: int) -> Any:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(
            "backend 'faiss' needs FAISS; install the extra: pip install"
            " 'cm3leon-jax[faiss]', or search with backend 'jax'"
        ) from error
    return faiss.IndexFlatIP(width)
