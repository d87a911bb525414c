"""Edit triples: a scene, an instruction in words, the scene after it.

    make the red circle blue            remove the red circle
    turn the red circle into a square   move the red circle to the top right
    add a blue ring at the bottom left  put the scene on tan fading to white

`apply` follows an instruction by its words alone, so that what a model did can be
compared with what was asked.
"""

from __future__ import annotations

import dataclasses
import random
import re

from cm3leon_jax.scenes import language, sampling
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import Scene, Thing, WorldConfig

_TRIES = 200
_MAKE = re.compile(r"^make the (\w+) (\w+) (\w+)$")
_TURN = re.compile(r"^turn the (\w+) (\w+) into an? (\w+)$")
_REMOVE = re.compile(r"^remove the (\w+) (\w+)$")
_MOVE = re.compile(r"^move the (\w+) (\w+) to the (\w+ \w+)$")
_ADD = re.compile(r"^add an? ((?:\w+ )*\w+) at the (\w+ \w+)$")
_GROUND = "put the scene"


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is asked, and the scene that fulfils it."""

    instruction: str
    after: Scene


def propose(
    scene: Scene, world: WorldConfig, split: str, rng: random.Random
) -> Edit | None:
    """Draws an edit whose result belongs to the same split.

    Returns:
      The edit, or None if none was found (an emblem has none).
    """
    if scene.emblem is not None:
        return None
    for _ in range(_TRIES):
        instruction = _instruction(scene, world, rng)
        after = apply(instruction, scene, world) if instruction else None
        if instruction and after and sampling.split_of(after, world) == split:
            return Edit(instruction, after)
    return None


def apply(instruction: str, scene: Scene, world: WorldConfig) -> Scene | None:
    """Follows an instruction.

    Returns:
      The scene after it, or None if the words are no instruction, name no object of the
      scene, change nothing, or would show two objects of one shape and colour.
    """
    after = _changed(instruction, scene, world)
    if after is None or after == scene or not after.things:
        return None
    names = {language.short(thing) for thing in after.things}
    return after if len(names) == len(after.things) else None


def _changed(instruction: str, scene: Scene, world: WorldConfig) -> Scene | None:
    if instruction.startswith(_GROUND):
        background, rest = language.split_ground(instruction, world)
        if background is None or rest != _GROUND or language.has_one_background(world):
            return None
        return dataclasses.replace(scene, background=background)
    if found := _ADD.match(instruction):
        added = language.parse_thing(found[1], found[2], world)
        if added is None or added.place not in sampling.free_places(scene, world):
            return None
        return worlds.with_things(scene, [*scene.things, added])
    if found := _REMOVE.match(instruction):
        return _replaced(scene, found[1], found[2], {}, keep=False)
    if found := _MOVE.match(instruction):
        place = language.parse_place(found[3], world)
        if place not in sampling.free_places(scene, world):
            return None
        values = {"row": place[0], "column": place[1]}
        return _replaced(scene, found[1], found[2], values)
    if found := _TURN.match(instruction):
        if found[3] not in world.shapes:
            return None
        return _replaced(scene, found[1], found[2], {"shape": found[3]})
    if found := _MAKE.match(instruction):
        known = {"colour": world.colours, "size": world.sizes, "fill": world.fills}
        fields = [field for field, names in known.items() if found[3] in names]
        values = dict.fromkeys(fields, found[3])
        return _replaced(scene, found[1], found[2], values)
    return None


def _replaced(
    scene: Scene, colour: str, shape: str, values: dict, keep: bool = True
) -> Scene | None:
    """The scene with the named object changed or taken away; None if it is not there."""
    rest = [t for t in scene.things if (t.colour, t.shape) != (colour, shape)]
    if len(rest) == len(scene.things):
        return None
    changed = [
        Thing(**{**vars(thing), **values})
        for thing in scene.things
        if keep and thing not in rest
    ]
    return worlds.with_things(scene, rest + changed)


def _instruction(scene: Scene, world: WorldConfig, rng: random.Random) -> str | None:
    """Draws the words of an edit; None if this kind does not fit the scene."""
    kinds = ["colour", "shape", "remove", "move", "add"]
    kinds += ["size"] * (len(world.sizes) > 1) + ["fill"] * (len(world.fills) > 1)
    kinds += ["ground"] * (not language.has_one_background(world))
    kind = rng.choice(kinds)
    name = language.short(rng.choice(scene.things))
    free = sampling.free_places(scene, world)
    if kind in ("colour", "size", "fill"):
        return f"make the {name} {rng.choice(getattr(world, kind + 's'))}"
    if kind == "shape":
        shape = rng.choice(world.shapes)
        return f"turn the {name} into {worlds.article(shape)} {shape}"
    if kind == "remove":
        return f"remove the {name}"
    if kind == "ground":
        return _GROUND + language.ground(sampling.background(world, rng), world)
    if not free:
        return None
    place = rng.choice(free)
    if kind == "move":
        return f"move the {name} to the {worlds.place_name(world, *place)}"
    if len(scene.things) >= world.max_objects:
        return None
    thing = sampling.thing(world, place, rng)
    where = language.place(thing, world)
    return f"add {language.noun(thing, world)} at the {where}"
