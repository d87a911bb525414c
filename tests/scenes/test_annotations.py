"""Boxes and maps against the pixels that were drawn."""

import random

import numpy as np
import pytest

from cm3leon_jax.scenes import annotations, drawing, emblems, sampling
from cm3leon_jax.scenes import world as worlds
from cm3leon_jax.scenes.world import QUICK, Scene, WorldConfig

RICH = WorldConfig()
WORLDS = pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])


def _scenes(world, count=60):
    rng = random.Random(0)
    return [sampling.sample(world, "train", rng) for _ in range(count)]


@WORLDS
def test_each_box_holds_its_object_tightly(world):
    for scene in _scenes(world):
        boxes = annotations.boxes(scene, world)
        empty = drawing.draw(Scene(scene.background), world)
        for thing, named in zip(scene.things, boxes, strict=False):
            alone = worlds.with_things(Scene(scene.background), [thing])
            changed = (drawing.draw(alone, world) != empty).any(axis=2)
            rows, columns = np.nonzero(changed)
            x0, y0, x1, y1 = named["box"]
            assert named["name"] == f"{thing.colour} {thing.shape}"
            assert x0 <= columns.min() <= x0 + 1 and x1 - 1 <= columns.max() + 1 <= x1
            assert y0 <= rows.min() <= y0 + 1 and y1 - 1 <= rows.max() + 1 <= y1


@WORLDS
def test_boxes_together_hold_every_pixel_that_is_not_background(world):
    for scene in [*_scenes(world, 40), *emblems.scenes(world, "test")[:20]]:
        changed = drawing.draw(scene, world) != drawing.draw(
            Scene(scene.background), world
        )
        changed = changed.any(axis=2)
        for named in annotations.boxes(scene, world):
            x0, y0, x1, y1 = named["box"]
            changed[y0:y1, x0:x1] = False
        assert not changed.any()


@WORLDS
def test_a_segmentation_shows_only_the_colours_of_its_legend(world):
    for scene in [*_scenes(world, 40), *emblems.scenes(world, "test")[:5]]:
        picture, legend = annotations.segmentation(scene, world)
        shown = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
        assert shown == {tuple(colour) for colour in legend.values()}
        assert len(shown) == len(legend)
        assert {thing.shape for thing in scene.things} <= set(legend)


def test_a_segmentation_does_not_tell_the_paint():
    scene = _scenes(QUICK, 1)[0]
    things = [worlds.Thing(**{**vars(t), "colour": "cyan"}) for t in scene.things]
    repainted = worlds.with_things(scene, things)
    np.testing.assert_array_equal(
        annotations.segmentation(scene, QUICK)[0],
        annotations.segmentation(repainted, QUICK)[0],
    )


@WORLDS
def test_edges_lie_at_outlines_and_scribbles_cover_them(world):
    for scene in _scenes(world, 20):
        picture = drawing.draw(scene, world)
        edges, scribble = annotations.edges(picture), annotations.scribble(picture)
        assert set(np.unique(edges)) == set(np.unique(scribble)) == {0, 255}
        assert (scribble[edges == 0] == 0).all()
        assert 0.005 < (edges == 0).mean() < (scribble == 0).mean() < 0.8


def test_a_flat_picture_has_no_edges():
    picture = np.full((64, 64, 3), 90, np.uint8)
    assert annotations.edges(picture).min() == 255


def test_a_place_box_holds_the_object_at_any_shift():
    for scene in _scenes(RICH):
        boxes = annotations.boxes(scene, RICH)
        for thing, named in zip(scene.things, boxes, strict=False):
            x0, y0, x1, y1 = annotations.thing_box(thing, RICH)
            inner = named["box"]
            assert x0 - 1 <= inner[0] and y0 - 1 <= inner[1]
            assert inner[2] <= x1 + 1 and inner[3] <= y1 + 1
