import collections

import pytest

from cm3leon_jax.data import mixture, proportions
from cm3leon_jax.data.proportions import PAPER_LIMITS, MixtureConfig

SIZES = {"coco": 591_000, "okvqa": 26_000, "vqa2": 1_300_000, "pairs": 10_000}
ALIKE = dict.fromkeys(("coco", "okvqa", "vqa2"), 1.0)


def test_without_limits_weights_are_what_is_wanted():
    wanted = {"coco": 0.8, "vqa2": 6, "okvqa": 0}
    found = proportions.weights(SIZES, wanted, MixtureConfig())
    assert found == {"coco": 0.8, "vqa2": 6.0}


def test_limits_bound_how_often_an_epoch_shows_a_document():
    found = proportions.weights(SIZES, ALIKE, MixtureConfig(limits=PAPER_LIMITS))
    factors = {name: found[name] / SIZES[name] for name in ALIKE}
    assert factors["okvqa"] == pytest.approx(3.0)  # 639k of 26k would be 24.6
    assert found["coco"] == pytest.approx(639_000) == found["vqa2"]
    heavy = {**ALIKE, "vqa2": 0.01}
    found = proportions.weights(SIZES, heavy, MixtureConfig(limits=PAPER_LIMITS))
    assert found["vqa2"] / SIZES["vqa2"] == pytest.approx(0.3)


@pytest.mark.parametrize("limits", [(), PAPER_LIMITS])
def test_a_fixed_share_is_that_share_whatever_the_others_weigh(limits):
    config = MixtureConfig(limits=limits, shares={"pairs": 0.1})
    found = proportions.weights(SIZES, {**ALIKE, "pairs": 99.0}, config)
    assert found["pairs"] / sum(found.values()) == pytest.approx(0.1)
    assert list(found) == [*ALIKE, "pairs"]


def test_an_epoch_of_the_mixture_has_the_proportions_exactly():
    sizes = {"a": 3_000, "b": 400, "c": 700}
    config = MixtureConfig(limits=PAPER_LIMITS, shares={"c": 0.25})
    found = proportions.weights(sizes, dict.fromkeys(sizes, 1.0), config)
    mixed = mixture.Mixture(list(sizes.values()), list(found.values()), seed=1)
    blocks = 4
    places = [mixed.place(number) for number in range(blocks * mixture.BLOCK)]
    counts = collections.Counter(place.set_index for place in places)
    assert [counts[index] for index in range(3)] == [
        blocks * count for count in mixed.counts
    ]
    assert mixed.counts[2] == mixture.BLOCK // 4
    for index, weight in enumerate(found.values()):
        share = counts[index] / len(places)
        assert share == pytest.approx(weight / sum(found.values()), abs=1 / 1024)
    # No document comes twice before every one of its set came once.
    seen = collections.Counter(place[:2] for place in places if place.set_index == 1)
    assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize(
    ("wanted", "options", "words"),
    [
        ({"coco": 0.0}, {}, "sum to nothing"),
        ({}, {}, "sum to nothing"),
        ({"coco": -1.0}, {}, "sets.coco=-1.0"),
        ({"coco": float("nan")}, {}, "sets.coco=nan"),
        ({"none": 1.0}, {}, "'none' is empty"),
        (ALIKE, {"shares": {"pairs": 0.1}}, "names 'pairs'"),
        (ALIKE, {"shares": {"coco": 1.0}}, "leave nothing for okvqa"),
        (ALIKE, {"shares": {"coco": 0.0}}, "above 0"),
        (ALIKE, {"shares": {"coco": 0.9, "vqa2": 0.2}}, "sum to at most 1"),
        (ALIKE, {"limits": (3.0, 0.3)}, "mixture.limits"),
        (ALIKE, {"limits": (0.3,)}, "mixture.limits"),
    ],
)
def test_what_is_no_mixture_is_refused(wanted, options, words):
    with pytest.raises(ValueError, match=words):
        proportions.weights({**SIZES, "none": 0}, wanted, MixtureConfig(**options))
