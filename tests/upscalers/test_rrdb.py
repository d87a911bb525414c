"""A trained network on pictures: tiles without seams, odd sizes, files, refusals."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.models import super_resolution
from cm3leon_jax.upscalers import rrdb

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (2, 58, 54, 3), np.uint8)


@functools.cache
def _model(scale=4, **options):
    config = super_resolution.SuperResolutionConfig(scale, 4, 1, 4, **options)
    graph, state = nnx.split(
        nnx.eval_shape(
            lambda: super_resolution.SuperResolution(config, rngs=nnx.Rngs(0))
        )
    )
    rng = np.random.default_rng(1)
    # Large weights: what is far away must matter, or seams could not be seen.
    scale_of = lambda shape: (
        1.5 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1
    )
    flat = {
        path: leaf.replace(
            np.float32(scale_of(leaf.shape) * rng.normal(size=leaf.shape))
        )
        for path, leaf in nnx.to_flat_state(state)
    }
    return nnx.merge(graph, nnx.from_flat_state(flat))


@pytest.mark.parametrize(("scale", "use_bicubic_base"), [(2, True), (4, False)])
def test_tiles_are_the_whole_picture(scale, use_bicubic_base):
    model = _model(scale, use_bicubic_base=use_bicubic_base)
    size = 8 if scale == 4 else 16
    pictures = np.tile(PICTURES, (1, 1, 4 // scale, 1))[:1]
    pictures = np.tile(pictures, (1, 4 // scale, 1, 1))
    whole = rrdb.Upscaler(model, tile_size=0).enlarge(pictures)
    tiles = rrdb.Upscaler(model, tile_size=size).enlarge(pictures)
    assert whole.shape == (1, scale * pictures.shape[1], scale * pictures.shape[2], 3)
    difference = np.abs(whole.astype(int) - tiles)
    assert difference.max() <= 1  # rounding to a level
    assert difference.mean() < 1e-3


def test_a_seam_would_be_seen():
    model = _model()
    whole = rrdb.Upscaler(model, tile_size=0).enlarge(PICTURES[:1])
    cut = rrdb.Upscaler(model, tile_size=8, halo=1).enlarge(PICTURES[:1])
    assert np.abs(whole.astype(int) - cut).max() > 8


def test_reach_is_what_a_pixel_depends_on():
    model = _model()
    reach = model.config.reach

    @jax.jit
    def slope(image):
        return jax.grad(lambda x: model(x)[0, 4 * reach + 4, 4 * reach + 4].sum())(
            image
        )

    size = 2 * reach + 5
    image = RNG.uniform(size=(1, size, size, 3)).astype(np.float32)
    touched = np.flatnonzero(np.abs(slope(image)[0]).sum(axis=(1, 2)))
    middle = reach + 1
    # The finer grids reach one pixel further in one direction than in the other.
    assert reach - 2 <= max(middle - touched.min(), touched.max() - middle) <= reach


def test_example_of_spans_in_the_docstring():
    upscaler = rrdb.Upscaler(_model(), tile_size=4, halo=1)
    spans = upscaler._spans(10)
    assert [(s.window.start, s.window.stop) for s in spans] == [(0, 6), (3, 9), (4, 10)]
    assert [(s.place.start // 4, s.place.stop // 4) for s in spans] == [
        (0, 4),
        (4, 8),
        (8, 10),
    ]


def test_odd_sides_and_sides_below_a_tile_are_enlarged():
    upscaler = rrdb.Upscaler(_model(2))
    assert upscaler.enlarge(PICTURES[:, :5, :3]).shape == (2, 10, 6, 3)
    assert upscaler.enlarge(PICTURES[:0]).shape == (0, 116, 108, 3)


def test_untrained_network_on_a_bicubic_base_is_bicubic():
    config = super_resolution.SuperResolutionConfig(4, 4, 1, 4, use_bicubic_base=True)
    model = super_resolution.SuperResolution(config, rngs=nnx.Rngs(0))
    image = super_resolution.from_bytes(PICTURES[:, :8, :8])
    np.testing.assert_allclose(
        model(image), super_resolution.bicubic(image, 4), atol=1e-6
    )


def test_saved_and_loaded_is_the_same(tmp_path):
    digest = rrdb.save(_model(), tmp_path / rrdb.EXPORT)
    loaded = rrdb.Upscaler.load(tmp_path)
    assert (loaded.digest, loaded.scale) == (digest, 4)
    small = PICTURES[:1, :8, :8]
    np.testing.assert_array_equal(
        loaded.enlarge(small), rrdb.Upscaler(_model()).enlarge(small)
    )


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (PICTURES.astype(np.float32), "uint8"),
        (PICTURES[..., :1], r"3\], got"),
        (PICTURES[0], "uint8"),
        (PICTURES[:, :0], "empty"),
    ],
)
def test_other_pictures_are_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        rrdb.Upscaler(_model()).enlarge(pictures)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vqgan"}, "no upscaler"),
        ({"format": 9}, "format 9"),
        ({"model": {"colour": 1}}, "unknown fields"),
        ({"model": {"scale": 3}}, "must be one of"),
        ({"model": {"channels": 4, "num_blocks": 2, "growth_channels": 4}}, "'body.1"),
    ],
)
def test_other_folders_are_refused(tmp_path, change, message):
    rrdb.save(_model(), tmp_path)
    record = storage.read_json(tmp_path / rrdb.CONFIG_FILE)
    (tmp_path / rrdb.CONFIG_FILE).write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=message):
        rrdb.load_model(tmp_path)


def test_missing_folder_names_the_job(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"configs/super_resolution\.py"):
        rrdb.load_model(tmp_path)
