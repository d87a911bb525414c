"""Known values of the reconstruction numbers."""

import numpy as np
import pytest

from cm3leon_jax.evals import crowd, reconstruction

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def test_equal_pictures_are_alike_in_every_way():
    codes = np.arange(12).reshape(3, 4)
    found = reconstruction.evaluate(PICTURES, PICTURES, codes, 24)
    assert found["l1"] == 0.0
    np.testing.assert_allclose(found["ssim"], 1.0)
    np.testing.assert_allclose(found["usage"], 0.5)
    np.testing.assert_allclose(found["perplexity"], 12.0)


def test_psnr_of_a_known_error():
    other = np.full((1, 8, 8, 3), 100, np.uint8)
    found = reconstruction.psnr(other, other + 10)
    np.testing.assert_allclose(found, 20 * np.log10(255 / 10))


def test_ssim_falls_with_noise():
    rng = np.random.default_rng(1)
    smooth = np.linspace(0, 200, 16).astype(np.uint8)[None, :, None, None]
    smooth = np.broadcast_to(smooth, (1, 16, 16, 3))
    noisy = [smooth + rng.integers(0, level, smooth.shape) for level in (5, 50)]
    little, much = (reconstruction.ssim(smooth, other)[0] for other in noisy)
    assert 1.0 > little > much


def test_stand_in_for_lpips_is_zero_for_equal_pictures_and_sees_blur():
    assert reconstruction.gradient_pyramid(PICTURES, PICTURES) == 0.0
    blurred = (PICTURES // 2 + np.roll(PICTURES, 1, axis=2) // 2).astype(np.uint8)
    many = np.tile(PICTURES, (6, 1, 1, 1)), np.tile(blurred, (6, 1, 1, 1))
    once = reconstruction.gradient_pyramid(PICTURES, blurred)
    assert once > 0.1
    # Eighteen pairs take two passes, the second one mostly padding.
    np.testing.assert_allclose(reconstruction.gradient_pyramid(*many), once, rtol=1e-5)


def test_frechet_bears_the_name_of_its_features_and_sees_blur_and_colour():
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    encoder = crowd.from_blocks()
    far = {
        "same": pictures,
        "blurred": (pictures // 2 + np.roll(pictures, 1, axis=2) // 2).astype(np.uint8),
        "darker": pictures // 2,
    }
    found = {
        name: reconstruction.frechet(pictures, other, encoder)
        for name, other in far.items()
    }
    assert {tuple(each) for each in found.values()} == {("frechet_blocks",)}
    assert found["same"]["frechet_blocks"] == pytest.approx(0.0, abs=1e-6)
    assert found["blurred"]["frechet_blocks"] > 0.1
    assert found["darker"]["frechet_blocks"] > 0.1


def test_blocks_of_a_flat_half_and_a_step():
    picture = np.zeros((1, 16, 16, 1), np.uint8)
    picture[:, :, 2::4] = 255  # one column of each cell
    found = crowd.blocks(picture).reshape(4, 4, 4)
    mean, deviation, down, right = found[0, 0]
    np.testing.assert_allclose([mean, down], [0.25, 0.0])
    np.testing.assert_allclose(deviation, np.sqrt(0.25 * 0.75))
    np.testing.assert_allclose(right, 2 / 3)
    with pytest.raises(ValueError, match="multiples of 4"):
        crowd.blocks(np.zeros((1, 10, 16, 3), np.uint8))
