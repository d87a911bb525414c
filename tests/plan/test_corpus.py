"""Hours of the jobs before training, against hand counts."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from cm3leon_jax import devices
from cm3leon_jax.models import clip, vqgan
from cm3leon_jax.plan import corpus, work

CONFIG = corpus.CorpusConfig(
    num_pictures=1_000_000,
    pictures_per_core=100.0,
    cores_per_chip=10,
    disk_bandwidth=1e9,
    chips_per_host=4,
    convolution_share=0.5,
    search_share=0.5,
)


def test_work_counts_convolutions():
    image = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 10), jnp.float32)

    def convolve(image, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            image,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=names,
            feature_group_count=2,
        )

    found = work.count(jax.make_jaxpr(convolve)(image, kernel))
    assert found.products == 2 * (2 * 4 * 4 * 10) * (3 * 3 * 3)


def test_tower_flops_are_those_of_clip():
    # ViT-B/32: 4.4 GMAC a picture (OpenAI's CLIP), 2.9 GMAC a text of 77 tokens.
    found = corpus.tower_flops(clip.SHAPES["vit_b32"])
    assert found == pytest.approx(2 * (4.4e9 + 2.9e9), rel=0.1)


def test_hours_halve_on_twice_the_chips_and_search_grows_with_the_square():
    tokenizer = vqgan.VqganConfig(image_size=32, base_channels=32)
    embedder, chip = clip.SHAPES["vit_b32"], devices.named("v5e")
    few = corpus.hours(CONFIG, tokenizer, embedder, chip, 8)
    many = corpus.hours(CONFIG, tokenizer, embedder, chip, 16)
    for name, value in few.items():
        if name.endswith("_hours"):
            assert many[name] == pytest.approx(value / 2), name
    assert few["decode_hours"] == pytest.approx(1e6 / (100 * 10 * 8) / 3600)
    search = 2 * 2 * 512 * 1e12 / (8 * 197e12 * 0.5) / 3600
    assert few["search_hours"] == pytest.approx(search)
