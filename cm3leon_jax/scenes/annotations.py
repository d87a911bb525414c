"""What is known about a picture's pixels: boxes, segmentation, edges, scribble.

Boxes and segmentation come from the scene; edges and scribble from the picture alone,
so they can be made for any picture.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cm3leon_jax.scenes import drawing
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import Scene, Thing, WorldConfig

_EDGE_THRESHOLD = 40  # smallest step between neighbours that counts, in 0 to 255
_SCRIBBLE_SHARE = 16  # a scribble's stroke is one sixteenth of the picture wide
_WHITE = (250, 250, 250)
# A shape's class colour is the paint of the same rank.
_CLASS_PAINTS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "pink")
_CLASS_PAINTS += ("brown", "black")
_CREST_CLASS, _GROUND_CLASS = "gray", "tan"


def boxes(scene: Scene, world: WorldConfig) -> list[dict[str, Any]]:
    """Named boxes that hold every drawn pixel of an object.

    Returns:
      `{"name": "red circle", "box": [x0, y0, x1, y1]}` in pixels, the ends exclusive.
    """
    size = world.image_size
    found = []
    if scene.emblem is not None:
        first, last = drawing.emblem_box(size)
        found.append(("crest", (first, first, last, last)))
        charge, radius = scene.emblem, drawing.charge_radius(size)
        box = _mask_box(charge.charge, radius, "solid", size // 2, size // 2)
        found.append((f"{charge.colour} {charge.charge}", box))
    for thing in scene.things:
        y, x = world.centre(thing.row, thing.column)
        radius = world.radius(thing.size)
        box = _mask_box(thing.shape, radius, thing.fill, y + thing.dy, x + thing.dx)
        found.append((f"{thing.colour} {thing.shape}", box))
    if scene.sign is not None:
        y0, x0, y1, x1 = drawing.board_box(scene.sign, world)
        found.append(("sign", (x0, y0, x1, y1)))
    return [{"name": name, "box": list(box)} for name, box in found]


def segmentation(
    scene: Scene, world: WorldConfig
) -> tuple[np.ndarray, dict[str, list[int]]]:
    """A map that shows the class of each pixel as a colour: the shape, not the paint.

    Returns:
      uint8[Y, X, 3], and the colour of each class that is in it.
    """
    size = world.image_size
    picture = np.full((size, size, 3), _WHITE, np.uint8)
    legend: dict[str, list[int]] = {"background": list(_WHITE)}
    if scene.background.kind == "split":
        legend["ground"] = list(worlds.PAINTS[_GROUND_CLASS])
        picture[drawing.horizon(size, world.grid_size) :] = legend["ground"]
    if scene.emblem is not None:
        first, last = drawing.emblem_box(size)
        legend["crest"] = list(worlds.PAINTS[_CREST_CLASS])
        inside = drawing.crest_mask(size) >= 0.5
        picture[first:last, first:last][inside] = legend["crest"]
        _fill(
            picture, legend, scene.emblem.charge, drawing.charge_radius(size), size // 2
        )
    if scene.sign is not None:
        y0, x0, y1, x1 = drawing.board_box(scene.sign, world)
        legend["sign"] = list(drawing.BOARD)
        picture[y0:y1, x0:x1] = drawing.BOARD
    for thing in scene.things:
        y, x = world.centre(thing.row, thing.column)
        radius = world.radius(thing.size)
        _fill(picture, legend, thing.shape, radius, y + thing.dy, x + thing.dx)
    return picture, legend


def edges(picture: np.ndarray) -> np.ndarray:
    """Where colours change between neighbours: uint8[Y, X, 3], black lines on white."""
    lines = _edge_mask(picture)
    return np.where(lines[:, :, None], np.uint8(0), np.uint8(255)).repeat(3, axis=2)


def scribble(picture: np.ndarray) -> np.ndarray:
    """Edges in coarse strokes, as a child would draw: uint8[Y, X, 3], black on white."""
    lines = _edge_mask(picture)
    height, width = lines.shape
    stroke = max(1, height // _SCRIBBLE_SHARE)
    blocks = lines.reshape(height // stroke, stroke, width // stroke, stroke)
    coarse = np.kron(blocks.any(axis=(1, 3)), np.ones((stroke, stroke), bool))
    return np.where(coarse[:, :, None], np.uint8(0), np.uint8(255)).repeat(3, axis=2)


def thing_box(thing: Thing, world: WorldConfig) -> tuple[int, int, int, int]:
    """The pixels of an object's whole place: x0, y0, x1, y1, the ends exclusive."""
    cell = world.cell
    return (
        round(thing.column * cell),
        round(thing.row * cell),
        round((thing.column + 1) * cell),
        round((thing.row + 1) * cell),
    )


def _edge_mask(picture: np.ndarray) -> np.ndarray:
    """bool[Y, X]."""
    values = picture.astype(np.int16)
    lines = np.zeros(picture.shape[:2], bool)
    below = np.abs(values[1:] - values[:-1]) > _EDGE_THRESHOLD
    right = np.abs(values[:, 1:] - values[:, :-1]) > _EDGE_THRESHOLD
    for channel in range(values.shape[2]):  # far faster than `any` over a short axis
        lines[1:] |= below[:, :, channel]
        lines[:, 1:] |= right[:, :, channel]
    return lines


def _fill(picture, legend, shape: str, radius: float, y: int, x: int | None = None):
    """Fills a silhouette with the colour of its class and notes it in the legend."""
    x = y if x is None else x
    paint = worlds.PAINTS[_CLASS_PAINTS[worlds.SHAPES.index(shape)]]
    legend[shape] = list(paint)
    inside = drawing.mask(shape, radius, "solid") >= 0.5
    half = inside.shape[0] // 2
    picture[y - half : y + half, x - half : x + half][inside] = paint


def _mask_box(shape: str, radius: float, fill: str, y: int, x: int):
    """The box around an object whose middle is at (y, x)."""
    x0, y0, x1, y1 = _centred_box(shape, radius, fill)
    return x + x0, y + y0, x + x1, y + y1


@functools.lru_cache(maxsize=1024)
def _centred_box(shape: str, radius: float, fill: str) -> tuple[int, int, int, int]:
    covered = drawing.mask(shape, radius, fill) > 0
    half = covered.shape[0] // 2
    rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    return (
        int(columns[0]) - half,
        int(rows[0]) - half,
        int(columns[-1]) + 1 - half,
        int(rows[-1]) + 1 - half,
    )
