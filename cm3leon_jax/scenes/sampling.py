"""Scenes from a seed, and the split that each belongs to.

A scene's split follows from its content (objects and sign, not the background or the
shifts): from a held-out pair of shape and colour, else from a hash. Sampling for a split
draws until a scene belongs to it, so the splits are disjoint whatever the seeds are.
"""

from __future__ import annotations

import functools
import hashlib
import random

from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import Background, Scene, Sign, Thing, WorldConfig

SPLITS = ("train", "validation", "test", "bank")
_NUMBER_PROB = 0.4  # share of signs that show a number


@functools.lru_cache(maxsize=8)
def held_out_pairs(world: WorldConfig) -> frozenset[tuple[str, str]]:
    """Pairs of shape and colour that only the test split shows, spread over both."""
    shapes, colours = world.shapes, world.colours
    return frozenset(
        (
            shapes[i % len(shapes)],
            colours[(2 * i + 1 + i // len(shapes)) % len(colours)],
        )
        for i in range(world.num_held_out_pairs)
    )


def has_held_out(scene: Scene, world: WorldConfig) -> bool:
    """Whether an object has a pair of shape and colour that training never shows."""
    pairs = held_out_pairs(world)
    return any((thing.shape, thing.colour) in pairs for thing in scene.things)


def split_of(scene: Scene, world: WorldConfig) -> str:
    """The only split that may show these objects: train, validation or test."""
    if has_held_out(scene, world):
        return "test"
    content = [
        (t.shape, t.colour, t.row, t.column, t.size, t.fill) for t in scene.things
    ]
    sign = None if scene.sign is None else (scene.sign.text, scene.sign.row)
    text = repr((world.seed, content, sign)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < world.test_share:
        return "test"
    if share < world.test_share + world.validation_share:
        return "validation"
    return "train"


def sample(world: WorldConfig, split: str, rng: random.Random) -> Scene:
    """Draws a scene of objects that belongs to a split.

    Args:
      world: How rich it is.
      split: `train`, `validation` or `test`.
      rng: Python's generator; the same state gives the same scene.
    """
    held_out = split == "test" and rng.random() < world.held_out_prob
    while True:
        scene = _any_scene(world, rng)
        if held_out and held_out_pairs(world):
            scene = _with_held_out(scene, world, rng)
        if (
            split_of(scene, world) == split
            and has_held_out(scene, world) == held_out
            and _are_distinct(scene.things)
        ):
            return scene


def background(world: WorldConfig, rng: random.Random) -> Background:
    """Draws a background of the world."""
    kind = rng.choice(world.backgrounds)
    count = 1 if kind == "plain" else 2
    return Background(kind, tuple(rng.sample(world.background_colours, count)))


def thing(world: WorldConfig, place: tuple[int, int], rng: random.Random) -> Thing:
    """Draws an object for a place."""
    jitter = world.jitter
    return Thing(
        rng.choice(world.shapes),
        rng.choice(world.colours),
        *place,
        size=rng.choice(world.sizes),
        fill=rng.choice(world.fills),
        dy=rng.randint(-jitter, jitter) if jitter else 0,
        dx=rng.randint(-jitter, jitter) if jitter else 0,
    )


def sign_text(world: WorldConfig, rng: random.Random) -> str:
    """Draws a word or a number."""
    if rng.random() < _NUMBER_PROB:
        return str(rng.randint(0, world.max_number))
    return rng.choice(worlds.WORDS)


def free_places(scene: Scene, world: WorldConfig) -> list[tuple[int, int]]:
    """Places without an object or a sign, in reading order."""
    taken = {t.place for t in scene.things}
    sign_row = None if scene.sign is None else scene.sign.row
    return [
        (row, column)
        for row in range(world.grid_size)
        for column in range(world.grid_size)
        if row != sign_row and (row, column) not in taken
    ]


def _any_scene(world: WorldConfig, rng: random.Random) -> Scene:
    sign = None
    if world.sign_prob and rng.random() < world.sign_prob:
        row = rng.choice((0, world.grid_size - 1))
        sign = Sign(sign_text(world, rng), row)
    scene = Scene(background(world, rng), sign=sign)
    places = free_places(scene, world)
    # Fuller scenes more often: there are so few scenes of one object that they repeat.
    counts = range(world.min_objects, world.max_objects + 1)
    count = rng.choices(counts, weights=counts)[0]
    chosen = rng.sample(places, min(count, len(places)))
    return worlds.with_things(scene, [thing(world, place, rng) for place in chosen])


def _with_held_out(scene: Scene, world: WorldConfig, rng: random.Random) -> Scene:
    """The scene with one object turned into a held-out pair."""
    index = rng.randrange(len(scene.things))
    shape, colour = rng.choice(sorted(held_out_pairs(world)))
    old = vars(scene.things[index])
    things = list(scene.things)
    things[index] = Thing(**{**old, "shape": shape, "colour": colour})
    return worlds.with_things(scene, things)


def _are_distinct(things: tuple[Thing, ...]) -> bool:
    """Whether `the red circle` always names one object."""
    return len({(t.shape, t.colour) for t in things}) == len(things)
