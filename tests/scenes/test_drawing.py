"""Pictures: deterministic, quick, and what the scene says."""

import random
import time

import numpy as np
import pytest

from cm3leon_jax.scenes import drawing, emblems, lettering, sampling
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import QUICK, WorldConfig

RICH = WorldConfig()


def _scenes(world, count):
    rng = random.Random(0)
    return [sampling.sample(world, "train", rng) for _ in range(count)]


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
def test_drawing_a_scene_again_gives_the_same_picture(world):
    for scene in [*_scenes(world, 20), *emblems.scenes(world, "bank")[:5]]:
        first = drawing.draw(scene, world)
        kept = first.copy()
        first[:] = 0  # the caller's own array: nothing cached may change with it
        np.testing.assert_array_equal(drawing.draw(scene, world), kept)
        assert kept.shape == (64, 64, 3) and kept.dtype == np.uint8


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
def test_two_thousand_pictures_a_second(world):
    scenes = _scenes(world, 1000)
    for scene in scenes:
        drawing.draw(scene, world)
    start = time.process_time()  # of this process: another one's load does not count
    for scene in scenes:
        drawing.draw(scene, world)
    assert len(scenes) / (time.process_time() - start) > 2000


@pytest.mark.parametrize("shape", worlds.SHAPES)
def test_a_mask_fills_its_shape_and_stays_in_its_radius(shape):
    solid = drawing.mask(shape, 10.0, "solid")
    striped = drawing.mask(shape, 10.0, "striped")
    assert solid.shape == (20, 20) and 0 <= solid.min() and solid.max() == 1
    assert 0.2 * 400 < solid.sum() < 0.9 * 400
    assert 0.3 * solid.sum() < striped.sum() < 0.95 * solid.sum()
    assert (striped <= solid + 1e-6).all()


def test_a_solid_object_shows_its_paint_and_its_background():
    scene = _scenes(QUICK, 1)[0]
    picture = drawing.draw(scene, QUICK)
    thing = next(iter(scene.things))
    y, x = QUICK.centre(*thing.place)
    inside = picture[y - 8, x] if thing.shape == "ring" else picture[y, x]
    np.testing.assert_array_equal(inside, worlds.PAINTS[thing.colour])
    np.testing.assert_array_equal(picture[0, 0], worlds.PAINTS["white"])


def test_every_word_of_the_world_can_be_written():
    for text in (*worlds.WORDS, "0", "407", "999"):
        assert lettering.line(text, 14, 56).sum() > 10


@pytest.mark.parametrize("text", ["", "TOOLONGS", "lower", "A-B"])
def test_what_cannot_be_written_is_refused(text):
    with pytest.raises(ValueError, match="sign text"):
        lettering.line(text, 14, 56)
