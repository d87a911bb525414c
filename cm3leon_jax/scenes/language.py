"""Sentences about scenes, and back: short captions, long ones, and their parser.

A short caption names the objects in reading order of their places, as few words as the
world allows (a world of one size never says it):

    a red circle at the top left and a blue square at the bottom right
    a large striped red circle at the top left on tan ground under a white sky
    the crest of Zarvokin on a gray wall
"""

from __future__ import annotations

import re

from cm3leon_jax.scenes import emblems
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import (
    Background,
    Emblem,
    Scene,
    Sign,
    Thing,
    WorldConfig,
)

NUMBERS = ("no", "one", "two", "three", "four", "five")
_PLAIN = re.compile(r" on (\w+)$")
_GRADIENT = re.compile(r" on (\w+) fading to (\w+)$")
_SPLIT = re.compile(r" on (\w+) ground under an? (\w+) sky$")
_EMBLEM = re.compile(r"^the crest of (\w+) on an? (\w+) wall$")
_SIGN = re.compile(r"^a sign that says (\w+) at the (\w+)$")
_THING = re.compile(r"^an? ((?:\w+ )*\w+) at the (\w+ \w+)$")


def caption(scene: Scene, world: WorldConfig) -> str:
    """The short caption, which `parse_caption` reads back."""
    if scene.emblem is not None:
        wall = scene.background.colours[0]
        return f"the crest of {scene.emblem.name} on {worlds.article(wall)} {wall} wall"
    parts = [f"{noun(t, world)} at the {place(t, world)}" for t in scene.things]
    if scene.sign is not None:
        row = worlds.ROW_NAMES[world.grid_size][scene.sign.row]
        parts.append(f"a sign that says {scene.sign.text} at the {row}")
    return listed(parts) + ground(scene.background, world)


def long_caption(scene: Scene, world: WorldConfig) -> str:
    """Several sentences: how many objects, each of them, the relations between them."""
    if scene.emblem is not None:
        return _long_emblem(scene.emblem, scene.background.colours[0])
    count = len(scene.things)
    noun_word = "object" if count == 1 else "objects"
    background = _background_phrase(scene.background)
    sentences = [f"the picture shows {NUMBERS[count]} {noun_word} on {background}."]
    for thing in scene.things:
        words = f"{thing.size} {thing.fill} {thing.colour} {thing.shape}"
        article = worlds.article(words)
        sentences.append(f"at the {place(thing, world)} is {article} {words}.")
    if scene.sign is not None:
        row = worlds.ROW_NAMES[world.grid_size][scene.sign.row]
        sentences.append(f"at the {row} is a sign that says {scene.sign.text}.")
    for first, second in zip(scene.things, scene.things[1:], strict=False):
        words = relation(first, second)
        sentences.append(f"the {short(first)} is {words} the {short(second)}.")
    return " ".join(sentences)


def noun(thing: Thing, world: WorldConfig) -> str:
    """The object with its article and every attribute in which the world has a choice."""
    words = [thing.colour, thing.shape]
    if thing.fill != "solid":
        words.insert(0, thing.fill)
    if len(world.sizes) > 1:
        words.insert(0, thing.size)
    return f"{worlds.article(words[0])} {' '.join(words)}"


def short(thing: Thing) -> str:
    """Colour and shape, which name one object of a scene."""
    return f"{thing.colour} {thing.shape}"


def place(thing: Thing, world: WorldConfig) -> str:
    """The words for an object's place."""
    return worlds.place_name(world, thing.row, thing.column)


def relation(first: Thing, second: Thing) -> str:
    """Where the first object is, seen from the second: `above`, `left of`, ..."""
    vertical = _direction(first.row, second.row, "above", "below")
    horizontal = _direction(first.column, second.column, "left of", "right of")
    return " and ".join(filter(None, (vertical, horizontal)))


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def parse_caption(text: str, world: WorldConfig) -> Scene | None:
    """Reads a caption back; for captions of this file it inverts `caption`.

    What a caption does not say is filled in: the world's only size, solid, the world's
    only background, no shift. A known emblem's name gives its look.

    Returns:
      The scene, or None if the words are no caption of this world.
    """
    text = text.strip().rstrip(".")
    found = _EMBLEM.match(text)
    if found:
        return _parse_emblem(found[1], found[2], world)
    background, text = split_ground(text, world)
    things, sign = [], None
    for part in re.split(r", | and ", text):
        as_sign, as_thing = _SIGN.match(part), _THING.match(part)
        if as_sign and sign is None and as_sign[2] in worlds.ROW_NAMES[world.grid_size]:
            rows = worlds.ROW_NAMES[world.grid_size]
            sign = Sign(as_sign[1], rows.index(as_sign[2]))
            continue
        thing = parse_thing(as_thing[1], as_thing[2], world) if as_thing else None
        if thing is None:
            return None
        things.append(thing)
    if background is None:
        return None
    return worlds.with_things(Scene(background, sign=sign), things)


def parse_thing(words: str, place_words: str, world: WorldConfig) -> Thing | None:
    """Reads `large striped red circle`, `top left`; None if a word is unknown."""
    values: dict[str, str] = {"fill": "solid"}
    if len(world.sizes) == 1:
        values["size"] = world.sizes[0]
    known = {
        "size": world.sizes,
        "fill": world.fills,
        "colour": world.colours,
        "shape": world.shapes,
    }
    for word in words.split():
        names = [name for name, choices in known.items() if word in choices]
        if not names:
            return None
        values[names[0]] = word
    spot = parse_place(place_words, world)
    if spot is None or len(values) != len(known):
        return None
    return Thing(
        shape=values["shape"],
        colour=values["colour"],
        row=spot[0],
        column=spot[1],
        size=values["size"],
        fill=values["fill"],
    )


def parse_place(words: str, world: WorldConfig) -> tuple[int, int] | None:
    """Reads `top left`; None if it is no place of this world."""
    row, _, column = words.partition(" ")
    rows, columns = (
        worlds.ROW_NAMES[world.grid_size],
        worlds.COLUMN_NAMES[world.grid_size],
    )
    if row not in rows or column not in columns:
        return None
    return rows.index(row), columns.index(column)


def has_one_background(world: WorldConfig) -> bool:
    """Whether every scene has the same background, which captions then do not name."""
    return world.backgrounds == ("plain",) and len(world.background_colours) == 1


def ground(background: Background, world: WorldConfig) -> str:
    """The end of a caption that names the background."""
    if has_one_background(world):
        return ""
    first, last = background.colours[0], background.colours[-1]
    if background.kind == "gradient":
        return f" on {first} fading to {last}"
    if background.kind == "split":
        return f" on {last} ground under {worlds.article(first)} {first} sky"
    return f" on {first}"


def split_ground(text: str, world: WorldConfig) -> tuple[Background | None, str]:
    """The background that a caption names, and the caption without it."""
    if has_one_background(world):
        return Background("plain", world.background_colours), text
    for kind, pattern in (
        ("split", _SPLIT),
        ("gradient", _GRADIENT),
        ("plain", _PLAIN),
    ):
        found = pattern.search(text)
        if found:
            colours = found.groups()[:: -1 if kind == "split" else 1]
            known = set(colours) <= set(world.background_colours)
            background = Background(kind, tuple(colours)) if known else None
            return background, text[: found.start()]
    return None, text


def _parse_emblem(name: str, wall: str, world: WorldConfig) -> Scene | None:
    emblem = emblems.by_name(world).get(name)
    if emblem is None or wall not in world.wall_colours:
        return None
    return Scene(Background("plain", (wall,)), emblem=emblem)


def _long_emblem(emblem: Emblem, wall: str) -> str:
    charge = f"{worlds.article(emblem.colour)} {emblem.colour} {emblem.charge}"
    return (
        f"the crest of {emblem.name} hangs on {worlds.article(wall)} {wall} wall."
        f" its field is {emblem.field}. on a white panel it bears {charge}."
    )


def _background_phrase(background: Background) -> str:
    first, last = background.colours[0], background.colours[-1]
    if background.kind == "gradient":
        return f"a background that fades from {first} to {last}"
    if background.kind == "split":
        return f"{last} ground under {worlds.article(first)} {first} sky"
    return f"{worlds.article(first)} {first} background"


def _direction(first: int, second: int, less: str, more: str) -> str:
    if first == second:
        return ""
    return less if first < second else more
