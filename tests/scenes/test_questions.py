"""Questions: the only right answer, all kinds, not too many yes/no."""

import collections
import random

import pytest

from cm3leon_jax.scenes import emblems, language, questions, sampling
from cm3leon_jax.scenes.world import QUICK, WorldConfig

RICH = WorldConfig()


def _asked(world, count=800):
    rng = random.Random(0)
    for _ in range(count):
        scene = sampling.sample(world, "train", rng)
        for question in questions.ask(scene, world, rng, 4):
            yield scene, question


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
def test_all_kinds_are_asked_and_yes_or_no_is_rare_and_balanced(world):
    asked = [question for _, question in _asked(world)]
    kinds = collections.Counter(question.kind for question in asked)
    expected = set(questions.KINDS) - (set() if world.sign_prob else {"writing"})
    assert set(kinds) == expected
    assert kinds["yes/no"] <= 0.5 * len(asked)
    answers = collections.Counter(q.answer for q in asked if q.kind == "yes/no")
    assert set(answers) == {"yes", "no"}
    assert 0.4 < answers["yes"] / kinds["yes/no"] < 0.6


@pytest.mark.parametrize("world", [RICH, QUICK], ids=["rich", "quick"])
def test_no_answer_is_right_by_itself(world):
    by_kind = collections.defaultdict(collections.Counter)
    for _, question in _asked(world):
        by_kind[question.kind][question.answer] += 1
    for kind, answers in by_kind.items():
        assert max(answers.values()) / answers.total() < 0.65, kind


def test_answers_follow_from_the_scene():
    for scene, asked in _asked(RICH, 300):
        words = asked.question.rstrip("?").split()
        if words[:2] == ["is", "there"]:
            shown = {(t.colour, t.shape) for t in scene.things}
            assert (asked.answer == "yes") == ((words[3], words[4]) in shown)
        elif asked.question.startswith("what colour is the object at"):
            place = language.parse_place(" ".join(words[-2:]), RICH)
            assert asked.answer in [t.colour for t in scene.things if t.place == place]
        elif asked.question == "how many objects are there?":
            assert asked.answer == questions.NUMBERS[len(scene.things)]
        elif asked.kind == "writing":
            assert asked.answer == scene.sign.text
        elif " seen from the " in asked.question:
            names = {language.short(t): t for t in scene.things}
            first, second = names[" ".join(words[3:5])], names[" ".join(words[8:10])]
            assert ("above" in asked.answer) == (first.row < second.row)
            assert ("right" in asked.answer) == (first.column > second.column)


def test_an_emblem_is_asked_what_can_be_seen():
    scene = emblems.scenes(QUICK, "bank")[0]
    asked = questions.ask(scene, QUICK, random.Random(0), 4)
    assert {q.answer for q in asked} == {
        scene.emblem.field,
        scene.emblem.charge,
        scene.emblem.colour,
        scene.background.colours[0],
    }
