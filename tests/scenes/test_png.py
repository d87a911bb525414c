"""PNG bytes that other readers open."""

import io

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.scenes import png


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 1, 3), (5, 33, 3)])
def test_pillow_reads_back_every_pixel(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(png.encode(picture))) as image:
        image.load()
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        png.encode(wrong)
