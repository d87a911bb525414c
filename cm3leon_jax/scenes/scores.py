"""How right an output is: a requested scene against one that was read.

Each function takes scenes, so a picture is read by `judge` first and a caption by
`language.parse_caption`. 1 is right, 0 wrong; means over cases are an evaluation's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cm3leon_jax.scenes import annotations, language
from cm3leon_jax.scenes.world import Scene, Thing, WorldConfig


def objects(requested: Scene, seen: Scene) -> float:
    """Share of objects with the right colour, shape and place, from 0 to 1.

    Objects are matched one to one by place (a place holds one); each object in a place
    where none was asked for counts as one more that is wrong.
    """
    asked = {thing.place: (thing.colour, thing.shape) for thing in requested.things}
    found = {thing.place: (thing.colour, thing.shape) for thing in seen.things}
    right = sum(found.get(place) == looks for place, looks in asked.items())
    extra = len(found.keys() - asked.keys())
    return right / max(1, len(asked) + extra)


def relations(requested: Scene, seen: Scene) -> float:
    """Share of pairs of requested objects that are there, one as the other is seen from.

    A pair counts wherever it stands, as long as the one is left of the other, or above.

    Raises:
      ValueError: If there are fewer than two objects, and so no pair.
    """
    pairs = list(itertools.combinations(requested.things, 2))
    if not pairs:
        raise ValueError("a scene of fewer than two objects has no relation to judge")
    found = {(thing.colour, thing.shape): thing for thing in seen.things}
    right = 0
    for first, second in pairs:
        one = found.get((first.colour, first.shape))
        other = found.get((second.colour, second.shape))
        if one is not None and other is not None:
            asked = language.relation(first, second)
            right += language.relation(one, other) == asked
    return right / len(pairs)


def overlaps(requested: Scene, seen: Scene, world: WorldConfig) -> float:
    """Mean over requested objects of the overlap (IoU) of their box as asked and drawn.

    An object that is not drawn, in its colour and shape, overlaps by 0.
    """
    asked = annotations.boxes(requested, world)
    drawn = annotations.boxes(seen, world)
    shares = [
        max(
            (_overlap(one["box"], other["box"]) for other in drawn if _is(one, other)),
            default=0.0,
        )
        for one in asked
    ]
    return sum(shares) / max(1, len(shares))


def captions(shown: Scene, parsed: Scene | None) -> float:
    """1 if a caption names every object with every attribute, and the writing."""
    return float(parsed is not None and _content(shown) == _content(parsed))


def edits(after: Scene, seen: Scene) -> float:
    """1 if the asked change is made and all the rest kept, the background too."""
    return float(
        _content(after) == _content(seen) and after.background == seen.background
    )


def infills(hidden: Thing, seen: Scene) -> float:
    """1 if the hidden object stands in its place with every attribute."""
    return float(_looks(hidden) in [_looks(thing) for thing in seen.things])


def emblems(requested: Scene, seen: Scene) -> float:
    """1 if field, charge and the charge's colour are right; the wall is `walls`'."""
    if requested.emblem is None or seen.emblem is None:
        return 0.0
    asked, found = requested.emblem, seen.emblem
    return float(
        (asked.field, asked.charge, asked.colour)
        == (found.field, found.charge, found.colour)
    )


def walls(requested: Scene, seen: Scene) -> float:
    """1 if an emblem hangs on the asked wall, whatever the emblem looks like."""
    return float(seen.emblem is not None and requested.background == seen.background)


def writing(requested: Scene, seen: Scene) -> float:
    """1 if the sign says what was asked, in its row; without a sign, if there is none."""
    return float(requested.sign == seen.sign)


def words(requested: Scene, seen: Scene) -> float:
    """1 if a sign says what was asked, in whatever row."""
    if requested.sign is None or seen.sign is None:
        return 0.0
    return float(requested.sign.text == seen.sign.text)


def _is(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["name"] == other["name"]


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / max(1e-9, sum(areas) - shared)


def _content(scene: Scene) -> tuple:
    """Objects and writing, without shifts that no caption can say."""
    things = sorted(_looks(thing) for thing in scene.things)
    look = scene.emblem and (
        scene.emblem.field,
        scene.emblem.charge,
        scene.emblem.colour,
    )
    return things, scene.sign, look


def _looks(thing: Thing) -> tuple:
    return (
        thing.row,
        thing.column,
        thing.shape,
        thing.colour,
        thing.size,
        thing.fill,
    )
