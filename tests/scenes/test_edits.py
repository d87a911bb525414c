"""Edit triples: the instruction alone leads from before to after."""

import random

import pytest

from cm3leon_jax.scenes import edits, emblems, sampling
from cm3leon_jax.scenes.world import QUICK, Scene, Sign, Thing, WorldConfig

RICH = WorldConfig()
_WHITE = Scene(sampling.background(QUICK, random.Random(0)))
_ONE = Scene(_WHITE.background, (Thing("circle", "red", 0, 0),))


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_after_is_what_the_instruction_asks_and_stays_in_the_split(world, split):
    rng = random.Random(0)
    verbs = set()
    for _ in range(200):
        scene = sampling.sample(world, split, rng)
        edit = edits.propose(scene, world, split, rng)
        assert edit.after == edits.apply(edit.instruction, scene, world) != scene
        assert sampling.split_of(edit.after, world) == split
        verbs.add(edit.instruction.split()[0])
    assert verbs >= {"make", "turn", "remove", "move", "add"}
    assert ("put" in verbs) == (world is RICH)


@pytest.mark.parametrize(
    ("instruction", "thing"),
    [
        ("make the red circle blue", Thing("circle", "blue", 0, 0)),
        ("turn the red circle into a square", Thing("square", "red", 0, 0)),
        ("move the red circle to the bottom right", Thing("circle", "red", 1, 1)),
    ],
)
def test_an_instruction_changes_the_named_object(instruction, thing):
    assert edits.apply(instruction, _ONE, QUICK).things == (thing,)


def test_adding_and_removing_undo_each_other():
    both = edits.apply("add a blue ring at the bottom left", _ONE, QUICK)
    assert [t.shape for t in both.things] == ["circle", "ring"]
    assert edits.apply("remove the blue ring", both, QUICK) == _ONE


@pytest.mark.parametrize(
    "instruction",
    [
        "remove the red circle",  # nothing would be left
        "remove the blue circle",
        "make the red circle red",
        "make the red circle crimson",
        "turn the red circle into a blob",
        "move the red circle to the top left",
        "add a red circle at the bottom left",  # a second one of the same name
        "put the scene on tan",
        "please do something",
    ],
)
def test_what_cannot_be_followed_is_none(instruction):
    assert edits.apply(instruction, _ONE, QUICK) is None


def test_edits_keep_the_sign_and_emblems_have_none():
    scene = Scene(_ONE.background, (Thing("circle", "red", 1, 0),), Sign("TEA", 0))
    assert edits.apply("make the red circle blue", scene, RICH).sign == scene.sign
    emblem = emblems.scenes(QUICK, "train")[0]
    assert edits.propose(emblem, QUICK, "train", random.Random(0)) is None
