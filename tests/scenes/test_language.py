"""Captions and back."""

import dataclasses
import random

import pytest

from cm3leon_jax.scenes import emblems, language, sampling
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import QUICK, WorldConfig

RICH = WorldConfig()
WORLDS = pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])


def _without_shifts(scene):
    things = [dataclasses.replace(thing, dy=0, dx=0) for thing in scene.things]
    return worlds.with_things(scene, things)


@WORLDS
def test_parsing_inverts_captioning(world):
    rng = random.Random(0)
    for split in ("train", "test"):
        for _ in range(300):
            scene = sampling.sample(world, split, rng)
            parsed = language.parse_caption(language.caption(scene, world), world)
            assert parsed == _without_shifts(scene)


@WORLDS
def test_parsing_inverts_captioning_of_emblems(world):
    for scene in emblems.scenes(world, "test"):
        assert language.parse_caption(language.caption(scene, world), world) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a circle at the top left",
        "a red at the top left",
        "a red circle at the middle left",
        "a red circle",
        "a red circle at the top left and",
        "a crimson circle at the top left",
        "the crest of Nobody on a tan wall",
    ],
)
def test_what_is_no_caption_is_none(text):
    assert language.parse_caption(text, QUICK) is None


def test_a_caption_is_short_where_the_world_leaves_no_choice():
    scene = language.parse_caption(
        "a red circle at the top left and a blue square at the bottom right", QUICK
    )
    assert [(t.shape, t.colour, t.place) for t in scene.things] == [
        ("circle", "red", (0, 0)),
        ("square", "blue", (1, 1)),
    ]


@WORLDS
def test_a_long_caption_says_all_that_the_scene_holds(world):
    rng = random.Random(2)
    for _ in range(50):
        scene = sampling.sample(world, "train", rng)
        text = language.long_caption(scene, world)
        for thing in scene.things:
            words = f"{thing.size} {thing.fill} {thing.colour} {thing.shape}"
            assert words in text and language.place(thing, world) in text
        assert scene.sign is None or scene.sign.text in text
        assert len(text) > len(language.caption(scene, world))
