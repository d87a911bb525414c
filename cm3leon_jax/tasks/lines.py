"""Line drawings of any picture: its edges after Canny, and a child's scribble of them.

    picture --blur--> gradient --thin--> ridges --two thresholds--> edges
    edges of a quarter of the picture --thick strokes--> scribble

White lines on black, as the annotators of ControlNet draw them. All in whole numbers:
the same picture gives the same lines on every machine.

Letters: Y, X rows and columns, C colours.

Source: Canny, A Computational Approach to Edge Detection, 1986. Differences from OpenCV's
`Canny`, which blurs nothing: a Gaussian of one pixel goes first, as in Canny's paper.
"""

from __future__ import annotations

import numpy as np

LOW, HIGH = 60.0, 120.0  # of the gradient's length, at 255 a full step is 1,020
_BLUR = (1, 4, 6, 4, 1)  # sixteenths: a Gaussian of one pixel
_SCALE = sum(_BLUR) ** 2  # of values after the blur along both axes
_SCRIBBLE_STEP = 4  # a scribble sees a picture a quarter as large
_TAN_22 = 0.41421356  # borders of the four directions of a gradient


def edges(picture: np.ndarray, *, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """Returns the edges of a picture.

    Args:
      picture: uint8[Y, X, 3].
      low: Ridges of the gradient above it belong to an edge that they touch.
      high: Ridges above it begin an edge.

    Returns:
      uint8[Y, X, 3], 255 on edges, else 0.
    """
    return _drawn(edge_mask(picture, low=low, high=high))


def scribble(picture: np.ndarray) -> np.ndarray:
    """Returns the coarse edges of a picture in thick strokes.

    Args:
      picture: uint8[Y, X, 3].

    Returns:
      uint8[Y, X, 3], 255 on strokes, else 0.
    """
    height, width = picture.shape[:2]
    step = _SCRIBBLE_STEP
    rows, columns = -(-height // step), -(-width // step)
    padded = np.pad(
        picture,
        ((0, rows * step - height), (0, columns * step - width), (0, 0)),
        mode="edge",
    )
    blocks = padded.reshape(rows, step, columns, step, -1)
    coarse = blocks.sum(axis=(1, 3), dtype=np.int32) // step**2
    strokes = edge_mask(coarse, low=LOW, high=HIGH)
    whole = strokes.repeat(step, axis=0).repeat(step, axis=1)
    return _drawn(whole[:height, :width])


def edge_mask(picture: np.ndarray, *, low: float, high: float) -> np.ndarray:
    """bool[Y, X], True on edges; arguments as for `edges`, of whole numbers to 255."""
    if low > high or low < 0:
        raise ValueError(f"{low=} and {high=} must be in order, neither below 0")
    blurred = _blur(np.asarray(picture, np.int32))
    dy, dx = _gradient(blurred)
    size = np.abs(dy) + np.abs(dx)
    # Of the colours the one that changes most, as OpenCV does.
    best = size.argmax(axis=2)[:, :, None]
    dy, dx, size = (
        np.take_along_axis(one, best, axis=2)[:, :, 0] for one in (dy, dx, size)
    )
    ridges = np.where(_is_ridge(size, dy, dx), size, 0)
    return _connected(ridges > high * _SCALE, ridges > low * _SCALE)


def _blur(picture: np.ndarray) -> np.ndarray:
    reach = len(_BLUR) // 2
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        padded = np.pad(picture, pad, mode="edge")
        length = picture.shape[axis]
        places = np.arange(length)
        shifted = (
            weight * np.take(padded, places + shift, axis=axis)
            for shift, weight in enumerate(_BLUR)
        )
        picture = sum(shifted, np.zeros_like(picture))
    return picture


def _gradient(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's derivatives down and across, each int32[Y, X, C]."""
    p = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = p[2:] - p[:-2]
    across = p[:, 2:] - p[:, :-2]
    dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    dx = across[:-2] + 2 * across[1:-1] + across[2:]
    return dy, dx


def _is_ridge(size: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Where the gradient is largest along its own direction."""
    p = np.pad(size, 1)
    middle = (slice(1, -1), slice(1, -1))
    steep, flat = np.abs(dy), np.abs(dx)
    is_across = steep < _TAN_22 * flat
    is_down = flat < _TAN_22 * steep
    is_falling = dy * dx >= 0  # down and right, or up and left

    def above(shift_y: int, shift_x: int) -> np.ndarray:
        """Larger than the neighbour before it, not smaller than the one behind."""
        before = np.roll(p, (shift_y, shift_x), (0, 1))[middle]
        behind = np.roll(p, (-shift_y, -shift_x), (0, 1))[middle]
        return (size > before) & (size >= behind)

    diagonal = np.where(is_falling, above(1, 1), above(1, -1))
    return np.where(is_across, above(0, 1), np.where(is_down, above(1, 0), diagonal))


def _connected(seeds: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """What can be reached from seeds over allowed pixels, corners included."""
    found = seeds & allowed
    while True:
        grown = found.copy()
        for axis in (0, 1):  # a 3 by 3 neighbourhood is two runs of three
            grown |= _shifted(grown, 1, axis) | _shifted(grown, -1, axis)
        grown &= allowed
        if (grown == found).all():
            return found
        found = grown


def _shifted(mask: np.ndarray, by: int, axis: int) -> np.ndarray:
    moved = np.roll(mask, by, axis)
    edge = [slice(None), slice(None)]
    edge[axis] = slice(0, by) if by > 0 else slice(by, None)
    moved[tuple(edge)] = False
    return moved


def _drawn(mask: np.ndarray) -> np.ndarray:
    return np.where(mask[:, :, None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
