"""A trained network as a tokenizer: determinism, padding, files, refusals."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import sharding, storage
from cm3leon_jax.models import vqgan
from cm3leon_jax.tokenizers import image
from tests import shapes

SHAPE = shapes.VQGAN
PICTURES = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)


@functools.cache
def _model():
    @jax.jit
    def make():
        model = vqgan.Vqgan(SHAPE, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
        model.quantize.embedding[...] = jax.random.normal(jax.random.key(0), (16, 4))
        return model

    return make()


def test_codes_and_pictures_do_not_depend_on_how_many_come_at_once():
    tokenizer = image.ImageTokenizer(_model(), batch_size=8)
    codes = tokenizer.encode(PICTURES)
    assert codes.dtype == np.int32
    assert codes.shape == (11, 64)
    assert len(np.unique(codes)) > 4
    alone = np.concatenate([tokenizer.encode(one[None]) for one in PICTURES])
    np.testing.assert_array_equal(codes, alone)
    back = tokenizer.decode(codes)
    assert back.shape == PICTURES.shape
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back[:1], tokenizer.decode(codes[:1]))


def test_codes_at_another_batch_size_are_the_same():
    one, two = (
        image.ImageTokenizer(_model(), batch_size=size).encode(PICTURES)
        for size in (1, 8)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_codes_of_the_published_shape_hold_on_eight_devices_and_in_other_batches():
    """Make-A-Scene's network at 256 pixels: equal batch, equal codes; else 99.9 %."""
    config = importlib.import_module("configs.vqgan").get_config("make_a_scene")
    shape = vqgan.VqganConfig(**config.model)

    @jax.jit
    def make():
        return vqgan.Vqgan(shape, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))

    model, key = make(), jax.random.key(1)
    entries = model.quantize.embedding
    entries[...] = jax.random.normal(key, entries[...].shape)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    encode = lambda **options: image.ImageTokenizer(model, **options).encode(pictures)
    codes = encode(batch_size=1)
    assert codes.shape == (8, 1_024)
    assert len(np.unique(codes)) > 64
    np.testing.assert_array_equal(
        codes, encode(batch_size=1, rows=sharding.LocalRows())
    )
    for size in (2, 4):
        assert (codes == encode(batch_size=size)).mean() >= 0.999


def test_nothing_is_encoded_to_nothing():
    tokenizer = image.ImageTokenizer(_model())
    assert tokenizer.encode(PICTURES[:0]).shape == (0, 64)
    assert tokenizer.decode(np.zeros((0, 64), np.int32)).shape == (0, 16, 16, 3)


def test_saved_and_loaded_is_the_same(tmp_path):
    digest = image.save(_model(), tmp_path / image.EXPORT)
    for folder in (tmp_path, tmp_path / image.EXPORT):
        loaded = image.ImageTokenizer.load(folder, batch_size=4)
        assert loaded.digest == digest
        sizes = (loaded.codebook_size, loaded.codes_per_image, loaded.image_size)
        assert sizes == (16, 64, 16)
        original = image.ImageTokenizer(_model(), batch_size=4)
        codes = loaded.encode(PICTURES[:4])
        np.testing.assert_array_equal(codes, original.encode(PICTURES[:4]))
        np.testing.assert_array_equal(loaded.decode(codes), original.decode(codes))


@pytest.mark.parametrize(
    "pictures",
    [
        PICTURES[:, :8],
        PICTURES[..., :1],
        PICTURES.astype(np.float32),
        PICTURES[0],
    ],
    ids=["size", "channels", "dtype", "rank"],
)
def test_other_pictures_are_refused(pictures):
    with pytest.raises(ValueError, match="pictures must be uint8"):
        image.ImageTokenizer(_model()).encode(pictures)


def test_other_codes_are_refused():
    tokenizer = image.ImageTokenizer(_model())
    with pytest.raises(ValueError, match="exactly that many"):
        tokenizer.decode(np.zeros((1, 16), np.int32))
    with pytest.raises(ValueError, match="the codebook has 16"):
        tokenizer.decode(np.full((1, 64), 16))


def test_missing_folder_names_the_job(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"configs/vqgan\.py"):
        image.ImageTokenizer.load(tmp_path)


def test_arrays_of_another_shape_are_refused_by_name(tmp_path):
    image.save(_model(), tmp_path)
    arrays, _ = storage.load_arrays(tmp_path / image.WEIGHTS_FILE)
    arrays["quant_conv.bias"] = np.zeros(5, np.float32)
    storage.save_arrays(tmp_path / image.WEIGHTS_FILE, arrays)
    with pytest.raises(ValueError, match=r"quant_conv\.bias.*\(5,\).*\(4,\)"):
        image.ImageTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "clip"}, "no image tokenizer"),
        ({"format": 9}, "format 9"),
        ({"model": {"colour": 1}}, "unknown fields"),
    ],
)
def test_other_configs_are_refused(tmp_path, change, message):
    image.save(_model(), tmp_path)
    record = storage.read_json(tmp_path / image.CONFIG_FILE)
    (tmp_path / image.CONFIG_FILE).write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=message):
        image.ImageTokenizer.load(tmp_path)


def test_quick_shape_meets_the_documents_vocabulary():
    config = importlib.import_module("configs.vqgan").get_config("quick")
    shape = vqgan.VqganConfig(**config.model)
    assert shape.codes_per_image == 16


def test_codes_on_many_devices_are_those_of_one():
    rows = sharding.LocalRows()
    assert rows.num_devices == 8
    one = image.ImageTokenizer(_model(), batch_size=2)
    many = image.ImageTokenizer(_model(), batch_size=2, rows=rows)
    codes = one.encode(PICTURES)
    np.testing.assert_array_equal(codes, many.encode(PICTURES))
    np.testing.assert_array_equal(one.decode(codes), many.decode(codes))
