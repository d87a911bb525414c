"""Known values of the reconstruction numbers."""

import numpy as np

from cm3leon_jax.evals import reconstruction

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
