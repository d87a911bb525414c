"""Letters and digits on signs: a 5 x 7 dot font, drawn at any size.

Each glyph is seven rows of five dots, written as seven numbers of five bits.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

ROWS, COLUMNS = 7, 5
ADVANCE = 6  # dots from one glyph to the next
MAX_LETTERS = 6
_FONT = {
    "A": "0E 11 11 1F 11 11 11",
    "B": "1E 11 11 1E 11 11 1E",
    "C": "0E 11 10 10 10 11 0E",
    "D": "1E 11 11 11 11 11 1E",
    "E": "1F 10 10 1E 10 10 1F",
    "F": "1F 10 10 1E 10 10 10",
    "G": "0E 11 10 17 11 11 0F",
    "H": "11 11 11 1F 11 11 11",
    "I": "0E 04 04 04 04 04 0E",
    "J": "07 02 02 02 02 12 0C",
    "K": "11 12 14 18 14 12 11",
    "L": "10 10 10 10 10 10 1F",
    "M": "11 1B 15 15 11 11 11",
    "N": "11 19 15 13 11 11 11",
    "O": "0E 11 11 11 11 11 0E",
    "P": "1E 11 11 1E 10 10 10",
    "Q": "0E 11 11 11 15 12 0D",
    "R": "1E 11 11 1E 14 12 11",
    "S": "0F 10 10 0E 01 01 1E",
    "T": "1F 04 04 04 04 04 04",
    "U": "11 11 11 11 11 11 0E",
    "V": "11 11 11 11 11 0A 04",
    "W": "11 11 11 15 15 1B 11",
    "X": "11 11 0A 04 0A 11 11",
    "Y": "11 11 0A 04 04 04 04",
    "Z": "1F 01 02 04 08 10 1F",
    "0": "0E 13 13 15 19 19 0E",
    "1": "04 0C 04 04 04 04 1F",
    "2": "0E 11 01 06 08 10 1F",
    "3": "1F 02 04 02 01 11 0E",
    "4": "02 06 0A 12 1F 02 02",
    "5": "1F 10 1E 01 01 11 0E",
    "6": "06 08 10 1E 11 11 0E",
    "7": "1F 01 01 02 04 04 04",
    "8": "0E 11 11 0E 11 11 0E",
    "9": "0E 11 11 0F 01 02 0C",
}
LETTERS = "".join(_FONT)
_SUPERSAMPLE = 8


@functools.lru_cache(maxsize=4096)
def line(text: str, height: int, width: int) -> np.ndarray:
    """A line of text, centred in a box, anti-aliased.

    Args:
      text: Up to `MAX_LETTERS` capital letters, digits and spaces.
      height: Pixels of the box.
      width: Pixels of the box; a dot is as large as a line of `MAX_LETTERS` allows.

    Returns:
      float32[height, width], 1 where ink is.

    Raises:
      ValueError: If the text is empty, too long, or has another character.
    """
    unknown = sorted({*text} - {*LETTERS, " "})
    if unknown or not 1 <= len(text) <= MAX_LETTERS:
        raise ValueError(
            f"sign text {text!r} must be 1 to {MAX_LETTERS} characters of {LETTERS}"
        )
    dots = np.zeros((ROWS, ADVANCE * len(text) - 1), np.uint8)
    for index, letter in enumerate(text):
        if letter != " ":
            dots[:, ADVANCE * index : ADVANCE * index + COLUMNS] = _dots(letter)
    size = _dot_size(height, width) * _SUPERSAMPLE
    large = Image.fromarray(dots * 255).resize(
        (round(dots.shape[1] * size), round(ROWS * size)), Image.Resampling.NEAREST
    )
    canvas = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
    canvas.paste(
        large, ((canvas.width - large.width) // 2, (canvas.height - large.height) // 2)
    )
    return np.asarray(canvas.reduce(_SUPERSAMPLE), np.float32) / 255


def _dot_size(height: int, width: int) -> float:
    """Pixels of one dot, so that the longest line fits into the box."""
    return min(width / (ADVANCE * MAX_LETTERS - 1), height / ROWS)


@functools.lru_cache(maxsize=64)
def _dots(letter: str) -> np.ndarray:
    """uint8[7, 5], 1 where ink is."""
    rows = [int(row, 16) for row in _FONT[letter].split()]
    shifts = np.arange(COLUMNS)[::-1]
    return ((np.array(rows)[:, None] >> shifts) & 1).astype(np.uint8)
