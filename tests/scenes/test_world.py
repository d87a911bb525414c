"""What a scene is, and which worlds there can be."""

import dataclasses
import json
import random

import pytest

from cm3leon_jax.scenes import sampling
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import QUICK, Scene, WorldConfig
from configs import scenes as config_file

RICH = WorldConfig()


def test_the_config_file_names_these_very_worlds():
    assert WorldConfig(**config_file.get_config().world) == RICH
    assert WorldConfig(**config_file.get_config("quick").world) == QUICK


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
def test_world_survives_json(world):
    record = json.loads(json.dumps(world.to_json()))
    assert WorldConfig(**record) == world


def test_the_worlds_are_as_rich_as_promised():
    assert len(RICH.shapes) >= 8 and len(RICH.colours) >= 10 and len(RICH.sizes) == 3
    assert RICH.max_objects == 4 and set(RICH.fills) == {"solid", "striped", "dotted"}
    assert len(QUICK.shapes) >= 5 and len(QUICK.colours) >= 6
    assert QUICK.grid_size**2 >= 4 and QUICK.max_objects == 3


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
def test_scene_survives_json(world):
    rng = random.Random(1)
    for _ in range(100):
        scene = sampling.sample(world, "train", rng)
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": ("blob",)}, "shapes"),
        ({"image_size": 65}, "image_size"),
        ({"grid_size": 4}, "grid_size"),
        ({"radii": (0.5,)}, "radii"),
        ({"background_colours": ("red", "white")}, "colours of objects"),
        ({"max_objects": 9}, "max_objects"),
        ({"bank_walls": 6}, "bank_walls"),
        ({"train_walls": 6}, "train_walls"),
        ({"jitter": 5}, "leave the cell"),
    ],
)
def test_an_impossible_world_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RICH, **changes)


def test_paints_keep_apart():
    for names in (RICH.colours, RICH.background_colours, RICH.wall_colours):
        for first in names:
            for second in names:
                a, b = worlds.PAINTS[first], worlds.PAINTS[second]
                distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
                assert first == second or distance > 45, (first, second)
