"""What guessing is worth."""

import numpy as np
import pytest

from cm3leon_jax.evals import chance


def _equal(asked, made):
    return float(asked == made)


def test_guess_example():
    assert chance.guess(_equal, "abb", "abb", "ab") == pytest.approx(2 / 3)


def test_guess_of_outputs_that_never_change_is_their_score():
    made = ["a"] * 10
    asked = ["a"] * 4 + ["b"] * 6
    assert chance.guess(_equal, asked, made, []) == chance.mean(_equal, asked, made)


def test_guess_by_kind_may_use_the_kind():
    asked = ["red", "red", "two", "two", "three"]
    kinds = ["colour", "colour", "count", "count", "count"]
    made = ["x"] * 5
    got = chance.guess_by_kind(_equal, asked, made, kinds, ["red", "two", "three"])
    assert got == pytest.approx(4 / 5)


def test_paired_p_value_is_even_for_chance_and_small_for_an_effect():
    rng = np.random.default_rng(0)
    values = [chance.paired_p_value(rng.normal(size=100)) for _ in range(400)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert chance.paired_p_value(rng.normal(0.5, 1.0, 200)) < 1e-6
    assert chance.paired_p_value(np.zeros(10)) == 1.0


def test_interval_is_students_and_of_one_run_unknown():
    mean, half = chance.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.303 / 3**0.5)
    assert np.isnan(chance.interval([1.0])[1])
    many = np.random.default_rng(0).normal(size=400)
    assert chance.interval(many)[1] == pytest.approx(1.96 / 20, rel=0.1)
    with pytest.raises(ValueError, match="no run"):
        chance.interval([])
