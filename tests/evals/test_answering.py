"""The official evaluation's own behaviour, checked against its code by hand."""

import pytest

from cm3leon_jax.evals import answering


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two dogs, and a cat.", "2 dogs and cat"),
        ("black/white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'll", "y'all'll"),
        ("somebody'd", "somebodyd"),  # the official table's own mistake
        ("the none", "0"),
        ("x-ray", "x ray"),
        ("yes , no", "yes no"),
    ],
)
def test_answers_are_brought_to_the_official_form(answer, expected):
    assert answering.normalise(answer) == expected


@pytest.mark.parametrize(
    ("same", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)]
)
def test_accuracy_is_the_mean_over_who_is_left_out(same, expected):
    people = ["net"] * same + [f"other {n}" for n in range(10 - same)]
    assert answering.accuracy(people, "Net.") == pytest.approx(expected)


def test_unanimous_people_are_compared_word_for_word():
    assert answering.accuracy(["Two"] * 10, "2") == 0.0
    assert answering.accuracy(["Two"] * 9 + ["one"], "2") == 1.0


def test_evaluate_is_the_mean_over_questions():
    people = [["red"] * 10, ["blue"] * 10]
    assert answering.evaluate(people, ["red", "red"]) == {"vqa_accuracy": 0.5}
    assert answering.choices(["A", "B"], ["A", "C"]) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="people's answers"):
        answering.evaluate([[]], ["red"])
    with pytest.raises(ValueError, match="0 answers"):
        answering.choices([], [])
