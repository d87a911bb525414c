"""Pairs for super-resolution: sizes, kernels, determinism, alignment, refusals."""

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import degradation, pairs
from cm3leon_jax.data.degradation import DegradationConfig

RNG = np.random.default_rng(0)
SMOOTH = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
)


def _small(strength, seed=0, scale=4):
    rng = np.random.default_rng(seed)
    return degradation.degrade(SMOOTH, scale, DegradationConfig(strength), rng)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_degraded_picture_has_the_size_and_the_same_seed_the_same_pixels(scale, seed):
    one, two = (_small(1.0, seed, scale) for _ in range(2))
    assert one.shape == (64 // scale, 64 // scale, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, two)


def test_strength_makes_it_worse_and_none_is_plain_reduction():
    plain = degradation.reduced(SMOOTH, 4)
    np.testing.assert_array_equal(_small(0.0), plain)
    error = lambda strength: np.mean(
        [
            np.abs(_small(strength, seed).astype(float) - plain).mean()
            for seed in range(12)
        ]
    )
    assert error(0.1) < error(0.5) < error(1.0)


def test_brightness_and_place_are_kept_on_average():
    plain = degradation.reduced(SMOOTH, 4).astype(float)
    many = np.mean([_small(0.5, seed).astype(float) for seed in range(60)], axis=0)
    np.testing.assert_allclose(many.mean(axis=(0, 1)), plain.mean(axis=(0, 1)), atol=4)
    shifts = {
        shift: np.abs(many - np.roll(plain, shift, axis=(0, 1))).mean()
        for shift in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    }
    assert min(shifts, key=shifts.get) == (0, 0)


def test_kernels_sum_to_one_and_one_pixel_changes_nothing():
    rng = np.random.default_rng(0)
    rounds = DegradationConfig()
    for each in (rounds.first, rounds.second):
        for _ in range(20):
            kernel = degradation._kernel(each, 1.0, rng)
            np.testing.assert_allclose(kernel.sum(), 1.0)
            middle = kernel.shape[0] // 2
            assert kernel[middle, middle] == kernel.max()
    pulse = np.zeros((7, 7))
    pulse[3, 3] = 1.0
    image = SMOOTH.astype(np.float32)
    np.testing.assert_allclose(degradation.filtered(image, pulse), image, atol=1e-3)
    shifted = np.roll(pulse, 1, axis=0)
    np.testing.assert_allclose(
        degradation.filtered(image, shifted)[1:], image[:-1], atol=1e-3
    )


LARGE = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8)
TOKENISED = LARGE[:, ::4, ::4]


def _pairs(**changes):
    options = {
        "scale": 4,
        "batch_size": 4,
        "crop_size": 6,
        "tokenised_share": 1.0,
        "seed": 1,
    }
    return pairs.Pairs(
        LARGE,
        changes.pop("tokenised", TOKENISED),
        DegradationConfig(0.0),
        **(options | changes),
    )


def test_pairs_show_the_same_place():
    batches = _pairs()
    for _ in range(5):
        pair = next(batches)
        assert pair.small.shape == (4, 6, 6, 3)
        assert pair.large.shape == (4, 24, 24, 3)
        left, right = pair.large[:, ::4, ::4], pair.large[:, ::4, 3::4]
        for small, *ways in zip(pair.small, left, right, strict=True):
            assert any((small == way).all() for way in ways)  # flipped or not


def test_pairs_continue_where_they_were():
    one, two = _pairs(tokenised_share=0.5), _pairs(tokenised_share=0.5)
    for _ in range(3):
        next(one)
    two.set_state(one.get_state())
    for a, b in zip(next(one), next(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 9}, "at most 8"),
        ({"scale": 3}, "that 3 divides"),
        ({"tokenised": None}, "there is no image tokenizer"),
        ({"tokenised": TOKENISED[:, :4]}, "pictures of 4 pixels"),
        ({"batch_size": 6}, "do not fill a batch"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _pairs(**changes)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        DegradationConfig(2.0)
