"""The judge reads what was drawn, also through blur and noise, and quickly."""

import dataclasses
import random
import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cm3leon_jax.scenes import drawing, emblems, judge, sampling, scores
from cm3leon_jax.scenes.world import QUICK, WorldConfig

RICH = WorldConfig()
WORLDS = pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])


def _pictures(world, count=500):
    """Scenes of objects and of emblems, and their pictures."""
    rng = random.Random(7)
    scenes = [sampling.sample(world, "test", rng) for _ in range(count)]
    scenes += emblems.scenes(world, "test")[: count // 4]
    return scenes, np.stack([drawing.draw(scene, world) for scene in scenes])


def _degraded(pictures, radius, sigma):
    rng = np.random.default_rng(0)
    blurred = [
        np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))
        for picture in pictures
    ]
    noise = rng.normal(0, sigma, pictures.shape)
    return np.clip(np.stack(blurred) + noise, 0, 255).astype(np.uint8)


def _share_exact(scenes, read):
    """Share of pictures of which everything was read right."""
    return np.mean([scores.edits(*pair) for pair in zip(scenes, read, strict=True)])


@WORLDS
def test_clean_drawings_are_read_right(world):
    scenes, pictures = _pictures(world)
    assert _share_exact(scenes, judge.read_all(pictures, world)) >= 0.99


@WORLDS
def test_blurred_and_noisy_drawings_are_read_right(world):
    scenes, pictures = _pictures(world)
    read = judge.read_all(_degraded(pictures, radius=1, sigma=12), world)
    assert _share_exact(scenes, read) >= 0.97


@pytest.mark.parametrize("tint", [(-20, 0, 10), (10, 15, -25)])
def test_a_tint_and_faded_colours_do_not_matter(tint):
    scenes, pictures = _pictures(QUICK, 300)
    faded = 0.85 * (pictures - 128.0) + 128 + np.array(tint)
    read = judge.read_all(np.clip(faded, 0, 255).astype(np.uint8), QUICK)
    assert _share_exact(scenes, read) >= 0.97


@WORLDS
def test_a_thousand_pictures_a_second(world):
    _, pictures = _pictures(world)
    judge.read_all(pictures, world)
    rates = []
    for start in range(0, len(pictures), 50):  # one quiet moment is enough
        part = pictures[start : start + 50]
        wall, cpu = time.perf_counter(), time.process_time()
        judge.read_all(part, world)
        # Threads count twice in one, the load of other processes in the other.
        taken = min(time.perf_counter() - wall, time.process_time() - cpu)
        rates.append(len(part) / taken)
    assert max(rates) > 1000


def test_one_picture_reads_as_among_many():
    _, pictures = _pictures(RICH, 20)
    alone = [judge.read(picture, RICH) for picture in pictures]
    assert alone == judge.read_all(pictures, RICH)


def test_another_size_is_judged_as_well():
    world = dataclasses.replace(QUICK, image_size=128)
    scenes, pictures = _pictures(world, 100)
    assert _share_exact(scenes, judge.read_all(pictures, world)) >= 0.99


def test_an_empty_picture_and_noise_hold_nothing_that_was_asked():
    blank = np.full((64, 64, 3), 250, np.uint8)
    assert judge.read(blank, QUICK).things == ()
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8)
    scenes, _ = _pictures(QUICK, 50)
    read = judge.read_all(noise, QUICK)
    right = [scores.objects(*pair) for pair in zip(scenes[:50], read, strict=True)]
    assert np.mean(right) < 0.1


def test_another_size_than_the_worlds_is_refused():
    with pytest.raises(ValueError, match="resize"):
        judge.read(np.zeros((32, 32, 3), np.uint8), QUICK)
