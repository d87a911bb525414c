"""Splits are disjoint by construction, and the same seed gives the same scene."""

import random

import pytest

from cm3leon_jax.scenes import sampling
from cm3leon_jax.scenes.world import QUICK, WorldConfig

WORLDS = pytest.mark.parametrize("world", [WorldConfig(), QUICK], ids=["rich", "quick"])


def _content(scene):
    looks = [(t.shape, t.colour, t.place, t.size, t.fill) for t in scene.things]
    return tuple(looks), scene.sign


@WORLDS
def test_splits_share_no_content(world):
    contents = {}
    for split in ("train", "validation", "test"):
        rng = random.Random(split)
        drawn = [sampling.sample(world, split, rng) for _ in range(400)]
        assert all(sampling.split_of(scene, world) == split for scene in drawn)
        contents[split] = {_content(scene) for scene in drawn}
    assert not contents["train"] & contents["validation"]
    assert not contents["train"] & contents["test"]
    assert not contents["validation"] & contents["test"]


@WORLDS
def test_only_the_test_split_shows_held_out_pairs(world):
    rng = random.Random(0)
    assert len(sampling.held_out_pairs(world)) == world.num_held_out_pairs
    for split in ("train", "validation"):
        drawn = [sampling.sample(world, split, rng) for _ in range(300)]
        assert not any(sampling.has_held_out(scene, world) for scene in drawn)
    drawn = [sampling.sample(world, "test", rng) for _ in range(600)]
    share = sum(sampling.has_held_out(scene, world) for scene in drawn) / len(drawn)
    assert abs(share - world.held_out_prob) < 0.07


@WORLDS
def test_each_attribute_of_a_held_out_pair_is_known_to_training(world):
    rng = random.Random(0)
    things = [
        t for _ in range(400) for t in sampling.sample(world, "train", rng).things
    ]
    assert {t.shape for t in things} == set(world.shapes)
    assert {t.colour for t in things} == set(world.colours)


@WORLDS
def test_sampling_is_decided_by_the_seed(world):
    first, again, other = (
        [sampling.sample(world, "train", rng) for _ in range(20)]
        for rng in (random.Random(3), random.Random(3), random.Random(4))
    )
    assert first == again
    assert first != other


@WORLDS
def test_objects_of_a_scene_have_their_own_places_and_names(world):
    rng = random.Random(5)
    for _ in range(300):
        scene = sampling.sample(world, "train", rng)
        places = [thing.place for thing in scene.things]
        assert places == sorted(set(places))
        assert len({(t.shape, t.colour) for t in scene.things}) == len(places)
        assert world.min_objects <= len(places) <= world.max_objects
        assert scene.sign is None or scene.sign.row not in {p[0] for p in places}
