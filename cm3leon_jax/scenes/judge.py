"""Reads a picture back into a scene by its own means: colours, templates, least squares.

The judge knows the world (which shapes, colours and places there are), but nothing about
how a picture came about. It withstands what a lossy image tokenizer does to a picture:
blur, noise, faded colours. It works in four steps, for many pictures at once:

1. Is it an emblem? Then field, charge and wall are read at their fixed places.
2. Is there a board, and what is the likeliest text on it, letter by letter?
3. Which background explains the strips that no object can cover?
4. In each place, what differs from the background? The template that explains most of
   it names shape, size and fill; the strength of the difference names the colour.

Letters: N pictures, Y and X pixel rows and columns, C = 3 colours, T templates, W pixels
of a window.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

from cm3leon_jax.scenes import drawing, reading
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import Background, Emblem, Scene, Thing, WorldConfig

_CHUNK = 128  # pictures at once: the windows stay in the cache
_BLUR = 1.0  # sigma in pixels of the second set of templates
_MIN_CONTRAST = 48.0  # an object differs at least so much from the background (RGB)
_MIN_DIFFERENCE = 2.0  # mean absolute difference of a place that is worth a look
_FADED, _FULL = 0.75, 1.05  # how strongly an object's colour may be mixed in
_FIELD_SPREAD = 75.0  # largest distance from a field's own colour, RGB
_FIELD_SHARE = 0.8  # of a field's pixels lie within that distance
_FIELD_DISTANCE = 95.0  # largest distance of a field from the nearest paint
_TINT = 25.0  # largest tint of a picture with an emblem that is taken off, a channel
_OUTLIER = 50.0  # distance from a background beyond which a row is something else


def read(picture: np.ndarray, world: WorldConfig) -> Scene:
    """Reads one picture, uint8[Y, X, 3]; see `read_all`."""
    return read_all(picture[None], world)[0]


def read_all(pictures_NYXC: np.ndarray, world: WorldConfig) -> list[Scene]:
    """Reads pictures back into scenes.

    Args:
      pictures_NYXC: uint8[N, Y, X, 3] of the world's image size.
      world: What there can be.

    Returns:
      A scene for each picture. An emblem's name is empty, for it cannot be seen.

    Raises:
      ValueError: If the pictures have another size or type.
    """
    size = world.image_size
    if pictures_NYXC.shape[1:] != (size, size, 3) or pictures_NYXC.dtype != np.uint8:
        raise ValueError(
            f"pictures must be uint8[N, {size}, {size}, 3], got"
            f" {pictures_NYXC.dtype}{list(pictures_NYXC.shape)}; resize them first"
        )
    scenes: list[Scene] = []
    for start in range(0, len(pictures_NYXC), _CHUNK):
        scenes += _read_chunk(pictures_NYXC[start : start + _CHUNK], world)
    return scenes


def _read_chunk(pictures_NYXC: np.ndarray, world: WorldConfig) -> list[Scene]:
    pixels_NYXC = pictures_NYXC.astype(np.float32)
    emblems = _read_emblems(pixels_NYXC, world)
    others = [index for index, scene in enumerate(emblems) if scene is None]
    scenes = iter(_read_scenes(pixels_NYXC[others], world)) if others else iter(())
    return [scene if scene is not None else next(scenes) for scene in emblems]


def _read_scenes(pixels_NYXC: np.ndarray, world: WorldConfig) -> list[Scene]:
    signs = reading.read_signs(pixels_NYXC, world)
    backgrounds, ground_NYC = _read_backgrounds(pixels_NYXC, signs, world)
    things = _read_things(pixels_NYXC, ground_NYC, signs, world)
    return [
        worlds.with_things(Scene(background, sign=sign), found)
        for background, sign, found in zip(backgrounds, signs, things, strict=True)
    ]


def _read_backgrounds(pixels_NYXC: np.ndarray, signs, world: WorldConfig):
    """The background of each picture, and the colour of its rows: float32[N, Y, 3]."""
    known, rows_TYC = _known_backgrounds(world)
    strips_NYC = np.median(pixels_NYXC[:, :, _outer_columns(world)], axis=2)
    weights_NY = np.ones(strips_NYC.shape[:2], np.float32)
    for index, sign in enumerate(signs):
        if sign is not None:
            top, _, bottom, _ = drawing.board_box(sign, world)
            weights_NY[index, max(0, top - 1) : bottom + 1] = 0
    errors_TNY = np.stack(
        [((strips_NYC - rows_YC) ** 2).sum(axis=2) for rows_YC in rows_TYC]
    )
    # Cut off: a row in which objects reach into the strips says no more than `no`.
    errors_TNY = np.minimum(errors_TNY, _OUTLIER**2)
    best_N = (errors_TNY * weights_NY).sum(axis=2).argmin(axis=0)
    ground_NYC = rows_TYC[best_N]
    # A tokenizer may tint the whole picture: take that from the same strips.
    weights_NY *= errors_TNY[best_N, np.arange(len(best_N))] < _OUTLIER**2
    tint_NYC = weights_NY[:, :, None] * (strips_NYC - ground_NYC)
    tint_NC = tint_NYC.sum(axis=1) / (weights_NY.sum(axis=1)[:, None] + 1e-6)
    return [known[best] for best in best_N], ground_NYC + tint_NC[:, None]


def _read_things(
    pixels_NYXC: np.ndarray, ground_NYC: np.ndarray, signs, world: WorldConfig
) -> list[list[Thing]]:
    """The objects of each picture."""
    templates = _templates(world)
    half = templates.half
    difference_NYXC = pixels_NYXC - ground_NYC[:, :, None]
    padding = ((0, 0), (half, half), (half, half), (0, 0))  # windows may leave the edge
    difference_NYXC = np.pad(difference_NYXC, padding)
    things: list[list[Thing]] = [[] for _ in signs]
    places = itertools.product(range(world.grid_size), range(world.grid_size))
    for row, column in places:
        y, x = world.centre(row, column)
        window_NYXC = difference_NYXC[:, y : y + 2 * half, x : x + 2 * half]
        strength_N = np.abs(window_NYXC).mean(axis=(1, 2, 3))
        free_N = np.array([sign is None or sign.row != row for sign in signs])
        chosen = np.flatnonzero(free_N & (strength_N > _MIN_DIFFERENCE))
        if not len(chosen):
            continue
        ground_KC = ground_NYC[chosen, min(max(y, 0), world.image_size - 1)]
        found = _match(window_NYXC[chosen], ground_KC, templates, world)
        for index, looks in zip(chosen, found, strict=True):
            if looks is not None:
                shape, size, fill, dy, dx, colour = looks
                things[index].append(
                    Thing(shape, colour, row, column, size, fill, dy, dx)
                )
    return things


def _match(
    window_NYXC: np.ndarray,
    ground_NC: np.ndarray,
    templates: _Templates,
    world: WorldConfig,
) -> list[tuple | None]:
    """Names what stands in a place: a template's label with a colour, or None.

    A window with one object is its mask times the difference of two colours, so it has
    rank one: projected on its strongest colour direction, it is compared with all masks
    by one product of matrices.
    """
    count = len(window_NYXC)
    window_NWC = window_NYXC.reshape(count, -1, 3)
    moments_NCC = window_NWC.transpose(0, 2, 1) @ window_NWC
    direction_NC = np.linalg.eigh(moments_NCC)[1][:, :, -1]
    alpha_NW = (window_NWC @ direction_NC[:, :, None])[:, :, 0]
    fit_NT = np.abs(alpha_NW @ templates.unit_WT)
    best_N = fit_NT.argmax(axis=1)
    unit_NW = templates.unit_WT.T[best_N]
    # Least squares for the difference of colours, given the mask.
    scale_N = templates.norms_T[best_N]
    contrast_NC = (unit_NW[:, None] @ window_NWC)[:, 0] / scale_N[:, None]
    colours = _name_colours(contrast_NC, ground_NC, world.colours)
    strong_N = np.linalg.norm(contrast_NC, axis=1) > _MIN_CONTRAST
    return [
        (*templates.labels[best], colour) if strong else None
        for best, colour, strong in zip(best_N, colours, strong_N, strict=True)
    ]


def _name_colours(
    contrast_NC: np.ndarray, ground_NC: np.ndarray, names: tuple[str, ...]
) -> list[str]:
    """The paint whose difference from the ground is nearest, faded a little at most."""
    paints_TC = _paints(names)
    full_NTC = paints_TC - ground_NC[:, None]
    share_NT = (full_NTC * contrast_NC[:, None]).sum(axis=2) / (
        (full_NTC**2).sum(axis=2) + 1e-6
    )
    share_NT = np.clip(share_NT, _FADED, _FULL)
    errors_NT = ((contrast_NC[:, None] - share_NT[:, :, None] * full_NTC) ** 2).sum(2)
    return [names[best] for best in errors_NT.argmin(axis=1)]


def _read_emblems(pixels_NYXC: np.ndarray, world: WorldConfig) -> list[Scene | None]:
    """The scene of each picture that shows an emblem, None for the others."""
    size = world.image_size
    field_YX, wall_YX = _emblem_zones(size)
    field_NWC = pixels_NYXC[:, field_YX]
    middle_NC = np.median(field_NWC, axis=1)
    spread_NW = np.linalg.norm(field_NWC - middle_NC[:, None], axis=2)
    distance_NT = _distances(middle_NC, world.colours)
    is_emblem_N = ((spread_NW < _FIELD_SPREAD).mean(axis=1) > _FIELD_SHARE) & (
        distance_NT.min(axis=1) < _FIELD_DISTANCE
    )
    grounds_NT = _distances(middle_NC, world.background_colours)
    is_emblem_N &= distance_NT.min(axis=1) < grounds_NT.min(axis=1)
    scenes: list[Scene | None] = [None] * len(pixels_NYXC)
    chosen = np.flatnonzero(is_emblem_N)
    if not len(chosen):
        return scenes
    first, last = drawing.panel_box(size)
    panel_NYXC = pixels_NYXC[chosen, first:last, first:last]
    # The panel's rim is known to be white: a tint of the picture shows there.
    rim_NWC = panel_NYXC[:, _panel_rim(size)]
    tint_NC = np.clip(np.median(rim_NWC, axis=1) - drawing.PANEL, -_TINT, _TINT)
    white_NC = np.broadcast_to(np.array(drawing.PANEL, np.float32), (len(chosen), 3))
    difference_NYXC = panel_NYXC - (white_NC + tint_NC)[:, None, None]
    charges = _match(difference_NYXC, white_NC, _charge_templates(world), world)
    fields_N = _distances(middle_NC[chosen] - tint_NC, world.colours).argmin(axis=1)
    walls_NC = np.median(pixels_NYXC[chosen][:, wall_YX], axis=1) - tint_NC
    walls_N = _distances(walls_NC, world.wall_colours).argmin(axis=1)
    looks = zip(chosen, fields_N, charges, walls_N, strict=True)
    for index, field, charge, wall in looks:
        if charge is None:  # a frame without a charge: an emblem with nothing right
            charge = ("", "", "", 0, 0, "")
        emblem = Emblem("", world.colours[field], charge[0], charge[-1])
        background = Background("plain", (world.wall_colours[wall],))
        scenes[index] = Scene(background, emblem=emblem)
    return scenes


@dataclasses.dataclass(frozen=True)
class _Templates:
    """Masks of every look, as unit vectors.

    Attributes:
      half: Half a window's side in pixels.
      labels: Shape, size, fill, dy, dx of each template.
      unit_WT: float32[W, T].
      norms_T: float32[T], the lengths that were divided out.
    """

    half: int
    labels: tuple[tuple, ...]
    unit_WT: np.ndarray
    norms_T: np.ndarray


@functools.lru_cache(maxsize=8)
def _templates(world: WorldConfig) -> _Templates:
    """Every shape, size, fill and shift, sharp and blurred."""
    half = math.ceil(max(world.radii) * world.cell / 2) + world.jitter
    shifts = range(-world.jitter, world.jitter + 1)
    looks = itertools.product(world.shapes, world.sizes, world.fills)
    labels, masks = [], []
    for (shape, size, fill), blur in itertools.product(looks, (0.0, _BLUR)):
        mask = drawing.mask(shape, world.radius(size), fill)
        margin = half - mask.shape[0] // 2
        mask = _blurred(np.pad(mask, margin), blur)
        for dy, dx in itertools.product(shifts, shifts):
            labels.append((shape, size, fill, dy, dx))
            masks.append(np.roll(mask, (dy, dx), axis=(0, 1)).ravel())
    return _as_units(half, labels, masks)


@functools.lru_cache(maxsize=8)
def _charge_templates(world: WorldConfig) -> _Templates:
    """Every shape as an emblem's charge, in a window as large as the panel."""
    first, last = drawing.panel_box(world.image_size)
    half = (last - first) // 2
    radius = drawing.charge_radius(world.image_size)
    labels, masks = [], []
    for shape, blur in itertools.product(world.shapes, (0.0, _BLUR)):
        mask = drawing.mask(shape, radius, "solid")
        mask = np.pad(mask, half - mask.shape[0] // 2)
        labels.append((shape, "", "solid", 0, 0))
        masks.append(_blurred(mask, blur).ravel())
    return _as_units(half, labels, masks)


def _as_units(half: int, labels: list[tuple], masks: list[np.ndarray]) -> _Templates:
    masks_WT = np.stack(masks, axis=1)
    norms_T = np.linalg.norm(masks_WT, axis=0)
    return _Templates(half, tuple(labels), masks_WT / norms_T, norms_T)


def _blurred(mask: np.ndarray, sigma: float) -> np.ndarray:
    """A mask under a Gaussian of `sigma` pixels; itself for 0."""
    if not sigma:
        return mask
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        mask = np.apply_along_axis(np.convolve, axis, mask, kernel, mode="same")
    return mask


@functools.lru_cache(maxsize=8)
def _known_backgrounds(world: WorldConfig):
    """Every background of a world, and their rows: float32[T, Y, 3]."""
    known = []
    for kind in world.backgrounds:
        count = 1 if kind == "plain" else 2
        pairs = itertools.permutations(world.background_colours, count)
        known += [Background(kind, colours) for colours in pairs]
    size, grid_size = world.image_size, world.grid_size
    rows = [drawing.background_rows(item, size, grid_size) for item in known]
    return known, np.stack(rows)


@functools.lru_cache(maxsize=8)
def _outer_columns(world: WorldConfig) -> np.ndarray:
    """The quarter of the pixel columns that is farthest from the middle of any place."""
    middles = np.array([world.centre(0, at)[1] for at in range(world.grid_size)])
    columns = np.arange(world.image_size)
    distance = np.abs(columns[:, None] + 0.5 - middles).min(axis=1)
    return np.sort(np.argsort(-distance, kind="stable")[: world.image_size // 4])


@functools.lru_cache(maxsize=8)
def _emblem_zones(size: int) -> tuple[np.ndarray, np.ndarray]:
    """bool[Y, X] masks of an emblem's field and of the wall, a pixel off every edge."""
    first, last = drawing.emblem_box(size)
    inner, outer = drawing.panel_box(size)
    field = np.zeros((size, size), bool)
    field[first + 1 : last - 1, first + 1 : last - 1] = True
    field[inner - 1 : outer + 1, inner - 1 : outer + 1] = False
    field[outer + 1 :, : size // 2 - size // 8] = False  # the rounded corners
    field[outer + 1 :, size // 2 + size // 8 :] = False
    wall = np.ones((size, size), bool)
    wall[first - 1 : last + 1, first - 1 : last + 1] = False
    return field, wall


@functools.lru_cache(maxsize=8)
def _panel_rim(size: int) -> np.ndarray:
    """bool[Y, X] of a panel: the pixels that no charge reaches, off the very edge."""
    first, last = drawing.panel_box(size)
    away = np.abs(np.arange(last - first) + 0.5 - (last - first) / 2)
    reach = np.maximum(away[:, None], away[None, :])
    return (reach > drawing.charge_radius(size)) & (reach < (last - first) / 2 - 2)


def _paints(names: tuple[str, ...]) -> np.ndarray:
    """float32[T, 3]."""
    return np.array([worlds.PAINTS[name] for name in names], np.float32)


def _distances(colours_NC: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """float32[N, T]: how far each colour is from each paint."""
    return np.linalg.norm(colours_NC[:, None] - _paints(names), axis=2)
