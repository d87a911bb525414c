"""Known answers are those of pycocoevalcap 1.2 on the same tokens."""

import numpy as np
import pytest

from cm3leon_jax.evals import captioning

PEOPLE = [
    [
        "a man rides a brown horse on the beach",
        "a person on a horse near the sea",
        "man riding horse along the shore",
    ],
    ["two dogs play in the snow", "dogs running through snow"],
    [
        "a red bus on a city street",
        "the bus drives down the street",
        "a double decker bus in the city",
    ],
    ["a cat sits on a chair"],
]
WRITTEN = [
    "a man riding a horse on the beach",
    "two dogs are running in the the snow",
    "a red double decker bus",
    "the a of",
]


def test_cider_d_equals_the_official_numbers():
    expected = [2.434140583961339, 1.9680457802332063, 1.8944644427011137]
    expected.append(0.10168227374492732)
    found = captioning.cider_d(PEOPLE, WRITTEN)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bleu_equals_the_official_numbers():
    expected = [0.7667036787938774, 0.6505696445202772]
    expected += [0.41795791299689045, 0.27353084097128827]
    np.testing.assert_allclose(captioning.bleu(PEOPLE, WRITTEN), expected, rtol=1e-12)


def test_rouge_l_equals_the_official_numbers():
    expected = [0.8148854961832059, 0.7331730769230769, 0.6472148541114059]
    expected.append(0.20962199312714777)
    found = captioning.rouge_l(PEOPLE, WRITTEN)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_caption_that_is_the_only_reference_has_the_best_scores():
    references = [["a cat sits on a chair"], ["two dogs play in snow"]]
    found = captioning.evaluate(references, [some[0] for some in references])
    assert found["cider_d"] == pytest.approx(10.0)
    for name in ("bleu_1", "bleu_4", "rouge_l"):
        assert found[name] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's dog -- it isn't black.", "a man 's dog it is n't black"),
        ("A well-lit street, at 3.5 m!", "a well-lit street at 3.5 m"),
        ("", ""),
    ],
)
def test_tokens_are_lower_case_words_without_punctuation(text, expected):
    assert captioning.tokens(text) == expected


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    found = captioning.evaluate([["a cat"], ["a dog"]], ["", ""])
    assert found["cider_d"] == 0 and found["rouge_l"] == 0


@pytest.mark.parametrize(
    ("references", "written"), [([], []), ([["a"]], []), ([[]], ["a"])]
)
def test_pictures_without_captions_are_refused(references, written):
    with pytest.raises(ValueError, match="every picture needs"):
        captioning.evaluate(references, written)
