"""How right an output is: a requested scene against one that was read.

Each function takes scenes, so a picture is read by `judge` first and a caption by
`language.parse_caption`. 1 is right, 0 wrong; means over cases are an evaluation's.
"""

from __future__ import annotations

from cm3leon_jax.scenes.world import Scene, Thing


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
