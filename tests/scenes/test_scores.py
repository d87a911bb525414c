"""Scores on worked cases."""

import dataclasses

import pytest

from cm3leon_jax.scenes import scores
from cm3leon_jax.scenes.world import Background, Emblem, Scene, Sign, Thing, WorldConfig

_WHITE = Background("plain", ("white",))
_RED = Thing("circle", "red", 0, 0)
_BLUE = Thing("square", "blue", 1, 1)
_EXTRA = Thing("ring", "cyan", 0, 1)
_BOTH = Scene(_WHITE, (_RED, _BLUE))


@pytest.mark.parametrize(
    ("things", "score"),
    [
        ((_RED, _BLUE), 1.0),
        ((_RED,), 0.5),
        ((_RED, _EXTRA, _BLUE), 2 / 3),
        ((_RED, _EXTRA), 1 / 3),
        ((dataclasses.replace(_RED, colour="blue"), _BLUE), 0.5),
        ((dataclasses.replace(_RED, row=1), _BLUE), 1 / 3),
        ((), 0.0),
    ],
)
def test_objects_counts_right_ones_and_extra_ones(things, score):
    assert scores.objects(_BOTH, Scene(_WHITE, things)) == pytest.approx(score)


def test_shifts_do_not_count_but_attributes_do():
    shifted = Scene(_WHITE, (dataclasses.replace(_RED, dy=1), _BLUE))
    striped = Scene(_WHITE, (dataclasses.replace(_RED, fill="striped"), _BLUE))
    assert scores.edits(_BOTH, shifted) == scores.captions(_BOTH, shifted) == 1
    assert scores.edits(_BOTH, striped) == scores.captions(_BOTH, striped) == 0
    assert scores.objects(_BOTH, striped) == 1


def test_captions_need_no_background_but_edits_do():
    tan = dataclasses.replace(_BOTH, background=Background("plain", ("tan",)))
    assert scores.captions(_BOTH, tan) == 1
    assert scores.edits(_BOTH, tan) == 0
    assert scores.captions(_BOTH, None) == 0


def test_infills_looks_at_the_hidden_object_alone():
    assert scores.infills(_RED, Scene(_WHITE, (_RED, _EXTRA))) == 1
    assert scores.infills(_RED, Scene(_WHITE, (_BLUE,))) == 0


def test_emblems_need_all_of_the_look_and_walls_only_the_wall():
    asked = Scene(_WHITE, emblem=Emblem("Zarvokin", "red", "ring", "blue"))
    seen = Scene(_WHITE, emblem=Emblem("", "red", "ring", "blue"))
    other = Scene(_WHITE, emblem=Emblem("", "red", "ring", "green"))
    assert (scores.emblems(asked, seen), scores.walls(asked, seen)) == (1, 1)
    assert (scores.emblems(asked, other), scores.walls(asked, other)) == (0, 1)
    assert (scores.emblems(asked, _BOTH), scores.walls(asked, _BOTH)) == (0, 0)


def test_writing_is_read_in_its_row():
    asked = dataclasses.replace(_BOTH, sign=Sign("TEA", 0))
    assert scores.writing(asked, asked) == 1
    assert scores.writing(asked, dataclasses.replace(asked, sign=Sign("TEA", 1))) == 0
    assert scores.writing(asked, _BOTH) == 0


def test_words_may_stand_in_any_row():
    asked = dataclasses.replace(_BOTH, sign=Sign("TEA", 0))
    assert scores.words(asked, dataclasses.replace(asked, sign=Sign("TEA", 1))) == 1
    assert scores.words(asked, dataclasses.replace(asked, sign=Sign("TEN", 0))) == 0
    assert scores.words(asked, _BOTH) == 0


def test_a_relation_holds_wherever_the_pair_stands_and_not_turned_round():
    far = Scene(_WHITE, (_RED, dataclasses.replace(_BLUE, row=2, column=2)))
    turned = Scene(
        _WHITE, (dataclasses.replace(_RED, row=2), dataclasses.replace(_BLUE, row=0))
    )
    assert scores.relations(_BOTH, far) == 1
    assert scores.relations(_BOTH, turned) == 0
    three = Scene(_WHITE, (_RED, _BLUE, _EXTRA))
    assert scores.relations(three, _BOTH) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="fewer than two"):
        scores.relations(Scene(_WHITE, (_RED,)), _BOTH)


def test_overlap_is_one_in_place_and_falls_with_the_shift():
    world = WorldConfig()
    moved = [
        Scene(_WHITE, (dataclasses.replace(_RED, dx=shift), _BLUE))
        for shift in (0, 2, 6)
    ]
    found = [scores.overlaps(_BOTH, one, world) for one in moved]
    assert found[0] == 1.0 and found[0] > found[1] > found[2] > 0.5
    # Boxes of 10 x 10 that are 2 apart share 8 x 10 of 120.
    assert scores._overlap((0, 0, 10, 10), (2, 0, 12, 10)) == pytest.approx(2 / 3)
    gone = Scene(_WHITE, (_BLUE,))
    assert scores.overlaps(_BOTH, gone, world) == 0.5
