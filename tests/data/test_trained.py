"""A model and its tokenizers belong together, or are refused by what differs."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax.data import trained
from cm3leon_jax.tokenizers import image
from tests import small_models


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    small_models.export_to(folder)
    trained.load(folder)  # as it is, all parts belong together
    return folder


def _with_pixels(folder, **changes):
    """Puts an image tokenizer of another shape, or of other weights, there."""
    config = dataclasses.replace(small_models.PIXELS, **changes)
    arrays = {n: np.zeros(x.shape, np.float32) for n, x in image.shapes(config).items()}
    image.write(arrays, config, folder / trained.PIXELS_FOLDER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 16}, "16 codes a picture of a codebook of 16; .* 16 of 24"),
        ({"image_size": 24}, "36 codes a picture of a codebook of 24; .* 16 of 24"),
        ({}, "another image_tokenizer"),
    ],
    ids=["codebook", "codes", "weights"],
)
def test_another_image_tokenizer_is_refused(exported, changes, message):
    _with_pixels(exported, **changes)
    with pytest.raises(ValueError, match=message):
        trained.load(exported)
