"""Scenes as pictures: anti-aliased shapes from cached masks, quick enough to be endless.

Pillow draws each mask once at eight times the size; a picture is a copy of its cached
background with one small blend per object. Annotations (boxes, segmentation, edges,
scribble) come from the same masks, see `annotations`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from cm3leon_jax.scenes import lettering
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import Background, Emblem, Scene, Sign, WorldConfig

BOARD = (45, 50, 70)  # colour of a sign, which no object and no background has
BOARD_INK = (250, 250, 250)
PANEL = (250, 250, 250)
CHARGE_SHARE = 0.75  # radius of an emblem's charge as a share of half its panel
_SUPERSAMPLE = 8
_STRIPE_SHARE = 0.38  # period of the stripes as a share of the radius, at least
_MIN_STRIPE = 4.0  # pixels: finer ones would not survive anti-aliasing
_MIN_DOT = 4.5  # pixels from one dot to the next, at least


def draw(scene: Scene, world: WorldConfig) -> np.ndarray:
    """Draws a scene.

    Returns:
      uint8[Y, X, 3]; a fresh array that the caller may change.
    """
    size = world.image_size
    picture = _background(scene.background, size, world.grid_size).copy()
    if scene.emblem is not None:
        _paste_emblem(picture, scene.emblem)
        return picture
    if scene.sign is not None:
        _paste_sign(picture, scene.sign, world)
    for thing in scene.things:
        keep, ink = _stamp(
            thing.shape, world.radius(thing.size), thing.fill, thing.colour
        )
        y, x = world.centre(thing.row, thing.column)
        _blend(picture, keep, ink, y + thing.dy, x + thing.dx)
    return picture


@functools.lru_cache(maxsize=1024)
def mask(shape: str, radius: float, fill: str) -> np.ndarray:
    """How much of each pixel an object covers.

    Args:
      shape: A name from `world.SHAPES`.
      radius: In pixels.
      fill: A name from `world.FILLS`; the gaps show the background.

    Returns:
      float32[2h, 2h] in [0, 1] with h = ceil(radius); the middle is the object's centre.
    """
    half = math.ceil(radius)
    size = 2 * half * _SUPERSAMPLE
    scale = radius * _SUPERSAMPLE
    outline = _outline(shape, size, scale)
    if fill != "solid":
        inner = _outline(shape, size, scale - 1.1 * _SUPERSAMPLE)
        rim = outline & ~inner  # keeps the outline whole
        outline = rim | (outline & _pattern(fill, size, radius))
    large = Image.fromarray(outline.astype(np.uint8) * 255)
    return np.asarray(large.reduce(_SUPERSAMPLE), np.float32) / 255


def emblem_box(size: int) -> tuple[int, int]:
    """First and last pixel (exclusive) of a crest, the same in rows and columns."""
    return size // 8, size - size // 8


def panel_box(size: int) -> tuple[int, int]:
    """First and last pixel (exclusive) of a crest's white panel."""
    return size // 4, size - size // 4


def board_box(sign: Sign, world: WorldConfig) -> tuple[int, int, int, int]:
    """A sign's board: y0, x0, y1, x1 in pixels, the ends exclusive."""
    y, _ = world.centre(sign.row, 0)
    half = world.image_size // 7
    margin = world.image_size // 32
    return y - half, margin, y + half, world.image_size - margin


def lettering_box(sign: Sign, world: WorldConfig) -> tuple[int, int, int, int]:
    """Where the letters of a sign stand: y0, x0, y1, x1, the ends exclusive."""
    y0, x0, y1, x1 = board_box(sign, world)
    gap = world.image_size // 32
    return y0 + gap, x0 + gap, y1 - gap, x1 - gap


@functools.lru_cache(maxsize=256)
def _background(background: Background, size: int, grid_size: int) -> np.ndarray:
    """uint8[size, size, 3]."""
    rows = background_rows(background, size, grid_size)
    full = np.broadcast_to(rows[:, None, :], (size, size, 3))
    return (full + 0.5).astype(np.uint8)


def background_rows(background: Background, size: int, grid_size: int) -> np.ndarray:
    """float32[size, 3]: the colour of each pixel row; a horizon lies between places."""
    paints = np.array([worlds.PAINTS[name] for name in background.colours], np.float32)
    if background.kind == "gradient":
        share = np.linspace(0, 1, size, dtype=np.float32)[:, None]
        return paints[0] * (1 - share) + paints[1] * share
    if background.kind == "split":
        above = horizon(size, grid_size)
        return np.repeat(paints, [above, size - above], axis=0)
    return np.repeat(paints, size, axis=0)


def horizon(size: int, grid_size: int) -> int:
    """First pixel row of the ground: between the last two rows of places."""
    return round(size * (grid_size - 1) / grid_size)


@functools.lru_cache(maxsize=4096)
def _stamp(
    shape: str, radius: float, fill: str, colour: str
) -> tuple[np.ndarray, np.ndarray]:
    """What a blend keeps of the picture and the ink that it adds: float32[h, w, 3]."""
    alpha = mask(shape, radius, fill)[:, :, None]
    paint = np.array(worlds.PAINTS[colour], np.float32)
    keep = np.ascontiguousarray(np.broadcast_to(1 - alpha, (*alpha.shape[:2], 3)))
    return keep, alpha * paint + 0.5  # the half rounds when the blend is cut to uint8


def _blend(picture: np.ndarray, keep: np.ndarray, ink: np.ndarray, y: int, x: int):
    """Blends a stamp onto a picture with its middle at (y, x)."""
    height, width = keep.shape[:2]
    top, left = y - height // 2, x - width // 2
    part = picture[top : top + height, left : left + width]
    part[...] = part * keep + ink


def _paste_sign(picture: np.ndarray, sign: Sign, world: WorldConfig) -> None:
    y0, x0, y1, x1 = board_box(sign, world)
    picture[y0:y1, x0:x1] = BOARD
    y0, x0, y1, x1 = lettering_box(sign, world)
    alpha = lettering.line(sign.text, y1 - y0, x1 - x0)[:, :, None]
    part = picture[y0:y1, x0:x1]
    part[...] = part * (1 - alpha) + alpha * np.array(BOARD_INK, np.float32) + 0.5


def _paste_emblem(picture: np.ndarray, emblem: Emblem) -> None:
    size = picture.shape[0]
    keep, ink = _crest(size, emblem.field)
    _blend(picture, keep, ink, size // 2, size // 2)
    first, last = panel_box(size)
    picture[first:last, first:last] = PANEL
    radius = charge_radius(size)
    keep, ink = _stamp(emblem.charge, radius, "solid", emblem.colour)
    _blend(picture, keep, ink, size // 2, size // 2)


def charge_radius(size: int) -> float:
    """Radius of an emblem's charge in pixels."""
    first, last = panel_box(size)
    return CHARGE_SHARE * (last - first) / 2


@functools.lru_cache(maxsize=64)
def _crest(size: int, field: str) -> tuple[np.ndarray, np.ndarray]:
    """The stamp of a crest."""
    alpha = crest_mask(size)[:, :, None]
    keep = np.ascontiguousarray(np.broadcast_to(1 - alpha, (*alpha.shape[:2], 3)))
    return keep, alpha * np.array(worlds.PAINTS[field], np.float32) + 0.5


@functools.lru_cache(maxsize=8)
def crest_mask(size: int) -> np.ndarray:
    """Coverage of `emblem_box` by a crest, a square with its lower corners rounded.

    Returns:
      float32[h, w] in [0, 1].
    """
    first, last = emblem_box(size)
    side = (last - first) * _SUPERSAMPLE
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).rounded_rectangle(
        (0, 0, side - 1, side - 1),
        radius=side // 4,
        fill=255,
        corners=(False, False, True, True),
    )
    return np.asarray(canvas.reduce(_SUPERSAMPLE), np.float32) / 255


def _outline(shape: str, size: int, radius: float) -> np.ndarray:
    """bool[size, size]: a filled shape of a radius, in the middle of a canvas."""
    canvas = Image.new("1", (size, size))
    pen = ImageDraw.Draw(canvas)
    middle = size / 2

    def ellipse(x: float, y: float, r: float, ink: int) -> None:
        corners = (x - r, y - r, x + r, y + r)
        pen.ellipse([middle + radius * c - 0.5 for c in corners], fill=ink)

    if shape in ("circle", "ring", "moon"):
        ellipse(0, 0, 1, 1)
        if shape == "ring":
            ellipse(0, 0, 0.5, 0)
        elif shape == "moon":
            ellipse(0.48, -0.1, 0.8, 0)
    elif shape == "heart":
        ellipse(-0.48, -0.38, 0.52, 1)
        ellipse(0.48, -0.38, 0.52, 1)
        corners = [(-0.93, -0.1), (0, 0.98), (0.93, -0.1), (0, -0.4)]
        _polygon(pen, corners, middle, radius)
    else:
        _polygon(pen, _CORNERS[shape], middle, radius)
    return np.asarray(canvas)


def _polygon(pen: ImageDraw.ImageDraw, corners, middle: float, radius: float) -> None:
    points = [
        (middle + radius * x - 0.5, middle + radius * y - 0.5) for x, y in corners
    ]
    pen.polygon(points, fill=1)


def _pattern(fill: str, size: int, radius: float) -> np.ndarray:
    """bool[size, size]: stripes or dots, the same for every shape of that radius."""
    along = (np.arange(size) + 0.5 - size / 2) / _SUPERSAMPLE  # pixels from the middle
    if fill == "striped":
        period = max(_MIN_STRIPE, _STRIPE_SHARE * radius)
        rows = np.mod(along / period + 0.25, 1) < 0.5
        return np.broadcast_to(rows[:, None], (size, size))
    period = max(_MIN_DOT, _STRIPE_SHARE * radius)
    wave = np.mod(along / period + 0.5, 1) - 0.5
    return wave[:, None] ** 2 + wave[None, :] ** 2 < 0.34**2


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * (step / 5 - 0.5) for step in range(10)]
    radii = [1.0, 0.42] * 5
    return [
        (r * math.cos(angle), r * math.sin(angle) + 0.06)
        for r, angle in zip(radii, angles, strict=True)
    ]


_ARM = 0.34
_CORNERS = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0, -0.95), (0.98, 0.82), (-0.98, 0.82)],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "cross": [
        (-_ARM, -0.95),
        (_ARM, -0.95),
        (_ARM, -_ARM),
        (0.95, -_ARM),
        (0.95, _ARM),
        (_ARM, _ARM),
        (_ARM, 0.95),
        (-_ARM, 0.95),
        (-_ARM, _ARM),
        (-0.95, _ARM),
        (-0.95, -_ARM),
        (-_ARM, -_ARM),
    ],
    "arrow": [
        (-0.95, -0.3),
        (0.1, -0.3),
        (0.1, -0.85),
        (0.98, 0),
        (0.1, 0.85),
        (0.1, 0.3),
        (-0.95, 0.3),
    ],
    "star": _star(),
}
