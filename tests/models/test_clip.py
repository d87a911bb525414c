"""Laws of CLIP's towers: shapes, causality, pooling, patches, unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import clip

TOWER = clip.TowerConfig(num_layers=2, model_dim=16, num_heads=2, mlp_dim=64)
CONFIG = clip.ClipConfig(
    image_size=16,
    patch_size=4,
    vision=TOWER,
    text=TOWER,
    vocab_size=50,
    max_length=12,
    eos_id=2,
    embed_dim=8,
)


@pytest.fixture(scope="module")
def model():
    return clip.Clip(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def embed_texts(model):
    return jax.jit(model.embed_texts)


@pytest.fixture(scope="module")
def embed_pictures(model):
    return jax.jit(model.embed_pictures)


def _pixels(count=3, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, 16, 16, 3))


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("vit_b32", 151_277_313),
        ("vit_l14", 427_616_513),
        ("vit_l14_336", 427_944_193),
    ],
)
def test_published_shapes_have_the_published_parameters(name, num_parameters):
    model = nnx.eval_shape(lambda: clip.Clip(clip.SHAPES[name], rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model))
    assert sum(leaf.size for leaf in leaves) == num_parameters


def test_vectors_have_length_one(embed_texts, embed_pictures):
    ids = jnp.array([[0, 7, 8, 2], [0, 9, 2, 2]])
    for vectors in (embed_texts(ids), embed_pictures(_pixels())):
        assert vectors.shape[1] == CONFIG.embed_dim and vectors.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_text_is_read_at_its_first_end_whatever_follows(embed_texts):
    short = embed_texts(jnp.array([[0, 7, 8, 2]]))
    for tail in ([2, 2], [1, 1], [33, 2], [5, 6, 7, 8]):
        long = embed_texts(jnp.array([[0, 7, 8, 2, *tail]]))
        np.testing.assert_allclose(long, short, atol=1e-6)
    other = embed_texts(jnp.array([[0, 7, 9, 2]]))
    assert jnp.abs(other - short).max() > 1e-3


def test_all_patches_kept_equals_none_named_and_order_is_free(embed_pictures):
    pixels = _pixels()
    whole = embed_pictures(pixels)
    order = jax.random.permutation(jax.random.key(1), 16)
    kept = jnp.broadcast_to(order, (3, 16))
    np.testing.assert_allclose(embed_pictures(pixels, kept), whole, atol=1e-5)


def test_dropped_patches_are_not_seen(embed_pictures):
    kept = jnp.broadcast_to(jnp.arange(4, 16), (3, 12))  # all but the first row
    hidden = _pixels().at[:, :4].set(9.0)
    np.testing.assert_allclose(
        embed_pictures(hidden, kept), embed_pictures(_pixels(), kept)
    )


def test_cut_patches_equals_a_convolution():
    pixels = _pixels()
    kernel = jax.random.normal(jax.random.key(2), (4, 4, 3, 5))
    convolved = jax.lax.conv_general_dilated(
        pixels, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    patches = clip.cut_patches(pixels, 4) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(patches, convolved.reshape(3, 16, 5), atol=1e-4)


def test_normalize_pixels_gives_clip_mean_and_deviation():
    grey = np.full((1, 2, 2, 3), 255, np.uint8)
    wanted = (1 - np.array([0.48145466, 0.4578275, 0.40821073])) / np.array(
        [0.26862954, 0.26130258, 0.27577711]
    )
    np.testing.assert_allclose(clip.normalize_pixels(grey)[0, 0, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: clip.TowerConfig(num_layers=1, model_dim=10, num_heads=4, mlp_dim=8),
        lambda: clip.ClipConfig(15, 4, TOWER, TOWER, 50, 12, 2, 8),
    ],
)
def test_configs_refuse_sizes_that_do_not_divide(wrong):
    with pytest.raises(ValueError, match="multiple of"):
        wrong()
