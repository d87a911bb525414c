"""Named emblems: names apart, looks fixed, measured ones kept from training."""

import collections
import dataclasses
import itertools

import pytest

from cm3leon_jax.scenes import emblems
from cm3leon_jax.scenes.world import QUICK, WorldConfig

WORLDS = pytest.mark.parametrize("world", [WorldConfig(), QUICK], ids=["rich", "quick"])


def _names(world, split):
    return {scene.emblem.name for scene in emblems.scenes(world, split)}


@WORLDS
def test_measured_emblems_are_in_no_training_split(world):
    measured = {emblem.name for emblem in emblems.measured(world)}
    assert len(measured) == world.num_measured_emblems >= 100
    assert not measured & (_names(world, "train") | _names(world, "validation"))
    assert _names(world, "bank") == _names(world, "test") == measured


@WORLDS
def test_the_bank_shows_a_measured_emblem_on_two_other_walls(world):
    assert len(emblems.scenes(world, "test")) >= 300
    bank, asked = (
        {(s.emblem.name, s.background.colours[0]) for s in emblems.scenes(world, split)}
        for split in ("bank", "test")
    )
    assert not bank & asked
    for emblem in emblems.measured(world):
        assert sum(name == emblem.name for name, _ in bank) >= 2


@WORLDS
def test_train_and_validation_share_no_emblem_picture(world):
    train, validation = (
        set(emblems.scenes(world, split)) for split in ("train", "validation")
    )
    assert train and validation and not train & validation
    assert len(train) == len(emblems.scenes(world, "train"))


def test_names_differ_in_two_syllables():
    everyone = dataclasses.replace(QUICK, num_emblems=2_000, num_measured_emblems=100)
    names = [emblem.name for emblem in emblems.all_emblems(everyone)]
    assert len(set(names)) == len(names) == 2_100
    syllables = [_syllables(name) for name in names]
    for first, second in itertools.combinations(syllables, 2):
        assert sum(a != b for a, b in zip(first, second, strict=True)) >= 2


def _syllables(name):
    for first, last in itertools.product(emblems._FIRST, emblems._LAST):
        middle = name.removeprefix(first).removesuffix(last)
        for cut in (2, 3):
            halves = middle[:cut], middle[cut:]
            if first + middle + last == name and set(halves) <= set(emblems._MIDDLE):
                return first, *halves, last
    raise AssertionError(name)


@WORLDS
def test_training_shows_an_emblem_on_as_many_walls_as_it_says(world):
    shown = collections.Counter(s.emblem.name for s in emblems.scenes(world, "train"))
    assert set(shown.values()) == {world.train_walls}
    assert len(shown) == world.num_emblems


def test_more_names_than_there_are_is_refused():
    with pytest.raises(ValueError, match="46656 names"):
        emblems.all_emblems(dataclasses.replace(QUICK, num_emblems=46_600))
