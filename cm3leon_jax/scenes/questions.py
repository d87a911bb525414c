"""Questions about a scene, with answers: colour, shape, count, relation, yes/no, writing.

Every answer follows from the scene alone and is the only right one. A scene is asked at
most one yes/no question, whose answer is yes as often as no.
"""

from __future__ import annotations

import dataclasses
import random

from cm3leon_jax.scenes import language, sampling
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import Emblem, Scene, Thing, WorldConfig

KINDS = ("colour", "shape", "count", "relation", "yes/no", "writing")
NUMBERS = ("zero", "one", "two", "three", "four", "five")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its only right answer, and one of `KINDS`."""

    question: str
    answer: str
    kind: str


def ask(
    scene: Scene, world: WorldConfig, rng: random.Random, count: int
) -> list[Question]:
    """Asks questions of different kinds.

    Args:
      scene: What the picture shows.
      world: Names what could have been shown.
      rng: Decides which questions.
      count: How many at most; a scene has no more kinds than it can be asked.
    """
    if scene.emblem is not None:
        asked = _about_emblem(scene.emblem, scene.background.colours[0])
        return rng.sample(asked, min(count, len(asked)))
    kinds = ["colour", "shape", "count", "relation", "yes/no"]
    if scene.sign is not None:
        kinds.append("writing")
    return [
        _ASKED[k](scene, world, rng) for k in rng.sample(kinds, min(count, len(kinds)))
    ]


def _colour(scene: Scene, world: WorldConfig, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    name = _at(thing, world)
    if _is_only(thing, scene, "shape") and rng.random() < 0.5:
        name = thing.shape
    return Question(f"what colour is the {name}?", thing.colour, "colour")


def _shape(scene: Scene, world: WorldConfig, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    name = _at(thing, world)
    if _is_only(thing, scene, "colour") and rng.random() < 0.5:
        name = f"{thing.colour} object"
    return Question(f"what shape is the {name}?", thing.shape, "shape")


def _count(scene: Scene, world: WorldConfig, rng: random.Random) -> Question:
    what = rng.choice(("object", "shape", "colour"))
    counted = scene.things
    words = "objects"
    if what != "object":
        # Mostly something that is there: else `zero` would be the answer to guess.
        choices = getattr(world, f"{what}s")
        if rng.random() < 0.8:
            choices = [getattr(thing, what) for thing in scene.things]
        name = rng.choice(choices)
        counted = [thing for thing in scene.things if getattr(thing, what) == name]
        words = _plural(name) if what == "shape" else f"{name} objects"
    return Question(f"how many {words} are there?", NUMBERS[len(counted)], "count")


def _relation(scene: Scene, world: WorldConfig, rng: random.Random) -> Question:
    if len(scene.things) == 1 or rng.random() < 0.4:
        thing = rng.choice(scene.things)
        question = f"where is the {language.short(thing)}?"
        return Question(question, language.place(thing, world), "relation")
    first, second = rng.sample(scene.things, 2)
    question = (
        f"where is the {language.short(first)} seen from the {language.short(second)}?"
    )
    answer = language.relation(first, second).replace(" of", "")
    return Question(question, answer, "relation")


def _yes_no(scene: Scene, world: WorldConfig, rng: random.Random) -> Question:
    is_true = rng.random() < 0.5
    if len(scene.things) > 1 and rng.random() < 0.5:
        return _yes_no_relation(scene, is_true, rng)
    thing = rng.choice(scene.things)
    shown = {(t.shape, t.colour) for t in scene.things}
    shape, colour = thing.shape, thing.colour
    hidden = shown | sampling.held_out_pairs(world)
    while not is_true and (shape, colour) in hidden:
        # One attribute of an object that is there: colour or shape alone is no clue.
        if rng.random() < 0.5:
            shape, colour = rng.choice(world.shapes), thing.colour
        else:
            shape, colour = thing.shape, rng.choice(world.colours)
    words = f"{worlds.article(colour)} {colour} {shape}"
    return Question(f"is there {words}?", "yes" if is_true else "no", "yes/no")


def _yes_no_relation(scene: Scene, is_true: bool, rng: random.Random) -> Question:
    first, second = rng.sample(scene.things, 2)
    words = rng.choice(language.relation(first, second).split(" and "))
    if not is_true:
        words = _OPPOSITE[words]
    question = f"is the {language.short(first)} {words} the {language.short(second)}?"
    return Question(question, "yes" if is_true else "no", "yes/no")


def _writing(scene: Scene, world: WorldConfig, rng: random.Random) -> Question:
    del world, rng
    if scene.sign is None:
        raise ValueError("a scene without a sign has no writing; ask another kind")
    return Question("what does the sign say?", scene.sign.text, "writing")


def _about_emblem(emblem: Emblem, wall: str) -> list[Question]:
    return [
        Question("what colour is the field of the crest?", emblem.field, "colour"),
        Question("what colour is the charge of the crest?", emblem.colour, "colour"),
        Question("what shape is the charge of the crest?", emblem.charge, "shape"),
        Question("what colour is the wall?", wall, "colour"),
    ]


def _at(thing: Thing, world: WorldConfig) -> str:
    return f"object at the {language.place(thing, world)}"


def _is_only(thing: Thing, scene: Scene, field: str) -> bool:
    """Whether no other object shares this attribute."""
    values = [getattr(other, field) for other in scene.things]
    return values.count(getattr(thing, field)) == 1


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


_OPPOSITE = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
}
_ASKED = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "relation": _relation,
    "yes/no": _yes_no,
    "writing": _writing,
}
