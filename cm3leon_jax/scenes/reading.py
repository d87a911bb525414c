"""Finds signs and reads the writing on them, letter by letter.

Letters: N pictures, Y and X pixel rows and columns, C = 3 colours, W pixels of a board,
T templates.
"""

from __future__ import annotations

import functools

import numpy as np

from cm3leon_jax.scenes import drawing, lettering
from cm3leon_jax.scenes.world import Sign, WorldConfig

_BOARD_DISTANCE = 70.0  # of a board's rim from its paint, RGB


def read_signs(pixels_NYXC: np.ndarray, world: WorldConfig) -> list[Sign | None]:
    """The sign of each picture, or None.

    Args:
      pixels_NYXC: float32[N, Y, X, 3] in 0 to 255.
      world: Without signs, none is looked for.
    """
    signs: list[Sign | None] = [None] * len(pixels_NYXC)
    if not world.sign_prob:
        return signs
    for row in (0, world.grid_size - 1):
        place = Sign("", row)
        is_board_N = _rim_distance(pixels_NYXC, place, world) < _BOARD_DISTANCE
        chosen = np.flatnonzero(is_board_N)
        if len(chosen):
            texts = _read_texts(pixels_NYXC[chosen], place, world)
            for index, text in zip(chosen, texts, strict=True):
                signs[index] = Sign(text, row)
    return signs


def _rim_distance(pixels_NYXC: np.ndarray, sign: Sign, world: WorldConfig):
    """float32[N]: how far a would-be board's rim is from the paint of boards.

    The rim runs through the gaps between places, so no object can be taken for it.
    """
    y0, x0, y1, x1 = drawing.board_box(sign, world)
    rim = np.concatenate(
        [
            pixels_NYXC[:, y0 + 1, x0 + 1 : x1 - 1],
            pixels_NYXC[:, y1 - 2, x0 + 1 : x1 - 1],
        ],
        axis=1,
    )
    distance_NW = np.linalg.norm(rim - np.array(drawing.BOARD, np.float32), axis=2)
    return distance_NW.mean(axis=1)


def _read_texts(pixels_NYXC: np.ndarray, sign: Sign, world: WorldConfig) -> list[str]:
    """The likeliest text on each board: least squares over lengths and letters.

    For a length, the letters stand apart, so each is chosen alone: the glyph g that
    lowers the squared error most, by 2 <ink, g> - <g, g>.
    """
    y0, x0, y1, x1 = drawing.lettering_box(sign, world)
    board = np.array(drawing.BOARD, np.float32)
    part_NWC = pixels_NYXC[:, y0:y1, x0:x1].reshape(len(pixels_NYXC), -1, 3)
    span = np.array(drawing.BOARD_INK, np.float32) - board
    ink_NW = (part_NWC - board) @ (span / (span @ span))
    gains, letters = [], []
    for glyphs_WT, energy_T in _glyphs(y1 - y0, x1 - x0):
        gain_NT = 2 * ink_NW @ glyphs_WT - energy_T
        gain_NLT = gain_NT.reshape(len(gain_NT), -1, len(lettering.LETTERS))
        gains.append(gain_NLT.max(axis=2).sum(axis=1))
        letters.append(gain_NLT.argmax(axis=2))
    best_N = np.argmax(gains, axis=0)
    return [
        "".join(lettering.LETTERS[letter] for letter in letters[best][index])
        for index, best in enumerate(best_N)
    ]


@functools.lru_cache(maxsize=8)
def _glyphs(height: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each length of a line: glyphs at each position float32[W, T], their energy."""
    tables = []
    for length in range(1, lettering.MAX_LETTERS + 1):
        lines = [
            lettering.line(" " * at + letter + " " * (length - at - 1), height, width)
            for at in range(length)
            for letter in lettering.LETTERS
        ]
        glyphs_WT = np.stack([line.ravel() for line in lines], axis=1)
        tables.append((glyphs_WT, (glyphs_WT**2).sum(axis=0)))
    return tables
