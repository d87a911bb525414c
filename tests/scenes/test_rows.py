"""Rows of the dataset: splits that keep apart, whatever is written about them."""

import dataclasses
import json

import numpy as np
import pytest

from cm3leon_jax.scenes import emblems, language, rows, sampling
from cm3leon_jax.scenes.world import QUICK, Scene, WorldConfig

_CONFIG = rows.RowConfig(
    num_train=300,
    num_validation=60,
    num_test=120,
    emblem_share=0.25,
    test_emblem_share=0.35,
    num_questions=4,
    edit_share=0.5,
    map_share=0.3,
    seed=0,
)
WORLDS = pytest.mark.parametrize("world", [WorldConfig(), QUICK], ids=["rich", "quick"])


def _rows(world, split):
    count = rows.count(world, _CONFIG, split)
    return [rows.row_at(world, _CONFIG, split, index) for index in range(count)]


@WORLDS
def test_no_measured_emblem_in_any_word_of_a_training_row(world):
    names = {emblem.name for emblem in emblems.measured(world)}
    for split in ("train", "validation"):
        for row in _rows(world, split):
            text = json.dumps(row.record)
            assert not any(name in text for name in names)


@WORLDS
def test_each_scene_and_its_edit_belong_to_the_split(world):
    for split in ("train", "validation", "test"):
        for row in _rows(world, split):
            scene = Scene.from_json(row.record["scene"])
            if scene.emblem is None:
                assert sampling.split_of(scene, world) == split
            if "edit" in row.record:
                after = Scene.from_json(row.record["edit"]["scene"])
                assert sampling.split_of(after, world) == split


@WORLDS
def test_shares_are_as_the_config_says(world):
    train = _rows(world, "train")
    kinds = [row.record["kind"] for row in train]
    assert kinds.count("emblem") == 75
    assert [row.record["kind"] for row in _rows(world, "test")].count("emblem") == 42
    drawn = [row for row in train if row.record["kind"] == "scene"]
    assert 0.4 < np.mean(["edit" in row.pictures for row in drawn]) < 0.6
    assert 0.2 < np.mean(["edges" in row.pictures for row in train]) < 0.4


def test_emblem_pictures_are_never_written_twice():
    config = dataclasses.replace(_CONFIG, num_train=9000)
    texts = [
        language.caption(scene, QUICK)
        for index in range(9000)
        if (scene := rows.scene_at(QUICK, config, "train", index)).emblem is not None
    ]
    assert len(set(texts)) == len(texts) <= len(emblems.scenes(QUICK, "train"))


def test_a_row_depends_on_its_number_alone():
    first = rows.row_at(QUICK, _CONFIG, "train", 41)
    again = rows.row_at(QUICK, _CONFIG, "train", 41)
    assert first.record == again.record
    assert first.pictures.keys() == again.pictures.keys()
    for name, picture in first.pictures.items():
        np.testing.assert_array_equal(picture, again.pictures[name])


def test_the_bank_holds_every_measured_emblem():
    records = [row.record for row in _rows(QUICK, "bank")]
    assert len(records) == QUICK.num_measured_emblems * QUICK.bank_walls
    assert {record["kind"] for record in records} == {"emblem"}


@pytest.mark.parametrize(
    "changes", [{"num_test": 0}, {"emblem_share": 1.5}, {"edit_share": -0.1}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes)).split("_")[-1]):
        dataclasses.replace(_CONFIG, **changes)
