"""Shapes, locality and refusals of the tokenizer's network."""

import dataclasses
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import vocab
from cm3leon_jax.models import convolution, vqgan
from tests import shapes

SMALL = dataclasses.replace(shapes.VQGAN, attention_sizes=(8,), use_mid_block=True)


@pytest.mark.parametrize(
    ("arg", "stride", "codes", "codebook", "attended"),
    [
        ("make_a_scene", 8, 1_024, (8_192, 256, False), [0, 0, 0, 2]),
        ("chameleon", 16, 1_024, (8_192, 256, False), [0, 0, 0, 0, 0]),
        ("janus", 16, 576, (16_384, 8, True), [0, 0, 0, 0, 2]),
        ("llamagen", 16, 256, (16_384, 8, True), [0, 0, 0, 0, 2]),
        ("llamagen_ds8", 8, 1_024, (16_384, 8, True), [0, 0, 0, 2]),
        ("quick", 16, 16, (1_024, 32, False), [0]),
        ("quick,codes=64", 8, 64, (1_024, 32, False), [0]),
        ("debug", 16, 16, (64, 8, False), [0]),
    ],
)
def test_preset_has_its_stride_codes_codebook_and_attention(
    arg, stride, codes, codebook, attended
):
    config = importlib.import_module("configs.vqgan").get_config(arg)
    shape = vqgan.VqganConfig(**config.model)
    assert (shape.stride, shape.codes_per_image) == (stride, codes)
    size = shape.image_size

    def run():
        model = vqgan.Vqgan(shape, rngs=nnx.Rngs(0))
        image, quantized = model(jnp.zeros((2, size, size, 3)))
        return image, quantized.codes_BYX, model.encode(image), model

    image, codes_BYX, codes_BP, model = jax.eval_shape(run)
    chex.assert_shape(image, (2, size, size, 3))
    chex.assert_shape(codes_BYX, (2, shape.grid_size, shape.grid_size))
    chex.assert_shape(codes_BP, (2, codes))
    quantize = model.quantize
    assert (*quantize.embedding.shape, quantize.use_l2_norm) == codebook
    assert [len(level.attn) for level in model.encoder.down] == attended
    more = [count + 1 if count else 0 for count in attended]  # the decoder has one more
    assert [len(level.attn) for level in model.decoder.up] == more


def test_first_preset_is_what_the_vocabulary_of_the_paper_names():
    config = importlib.import_module("configs.vqgan").get_config()
    shape, named = vqgan.VqganConfig(**config.model), vocab.Vocab()
    assert shape.codebook_size == named.image_size
    assert shape.codes_per_image == named.codes_per_image


def test_fold_moves_patches_and_unfold_puts_them_back():
    image = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = convolution.fold(image, 2)
    chex.assert_shape(patches, (2, 2, 3, 12))
    np.testing.assert_array_equal(patches[0, 1, 2], image[0, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(convolution.unfold(patches, 2), image)


def test_downsample_pads_below_and_to_the_right_only():
    layer = convolution.Downsample(1, nnx.Rngs(0))
    layer.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[0, 0, 0, 0].set(1.0)
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # The kernel's first corner falls on every second pixel from the first one on.
    assert layer(image)[0, :, :, 0].tolist() == [[0.0, 2.0], [8.0, 10.0]]


def test_group_norm_has_the_published_epsilon():
    layer = convolution.NormConfig("group", 4, 1e-6).make(8, nnx.Rngs(0))
    image = 1e-3 * jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    groups = np.asarray(image).reshape(1, 4, 4, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(centred.var((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        layer(image), expected.reshape(image.shape), rtol=1e-4, atol=1e-5
    )


def _latents(config, images):
    @jax.jit
    def run(images):
        rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))  # compiles faster
        return vqgan.Vqgan(config, rngs=rngs).latents(images)

    return np.asarray(run(images))


def test_codes_of_one_by_one_kernels_ignore_what_is_beside_them():
    config = importlib.import_module("configs.vqgan").get_config("debug")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3))
    images[1, :16, :16] = images[0, :16, :16]
    latents = _latents(vqgan.VqganConfig(**config.model), images)
    np.testing.assert_allclose(latents[0, 0, 0], latents[1, 0, 0], rtol=1e-5)
    assert np.abs(latents[0, 0, 1] - latents[1, 0, 1]).max() > 1e-3


def test_codes_of_the_published_kernels_see_their_surroundings():
    images = np.zeros((2, 16, 16, 3))
    images[1, 8:, 8:] = 1.0
    latents = _latents(SMALL, images)
    assert np.abs(latents[0, 0, 0] - latents[1, 0, 0]).max() > 1e-3


def test_decoding_codes_equals_the_training_forward():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3))

    def both_ways(image):
        model = vqgan.Vqgan(SMALL, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
        return model(image)[0], model.decode(model.encode(image))

    output, decoded = jax.jit(both_ways)(image)
    np.testing.assert_allclose(decoded, output, atol=1e-5)


def test_bytes_round_trip():
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(vqgan.to_bytes(vqgan.from_bytes(levels)), levels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 4, "patch_size": 8}, "multiple of the stride"),
        ({"image_size": 20, "patch_size": 8}, "multiple of the stride"),
        ({"encoder_kernels": (3,)}, "one side for each"),
        ({"norm": "batch"}, "known are"),
    ],
)
def test_impossible_shape_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        vqgan.VqganConfig(**(SMALL.to_json() | changes))


def test_config_to_json_and_back_is_the_same():
    assert vqgan.VqganConfig(**SMALL.to_json()) == SMALL
