"""A small vocabulary and a model with random weights, none of them zero."""

import jax
import pytest
from flax import nnx

from cm3leon_jax.models import transformer
from cm3leon_jax.vocab import Vocab


@pytest.fixture(scope="session")
def vocab():
    return Vocab(
        text_size=24,
        image_size=16,
        control_size=16,
        num_sentinels=8,
        codes_per_image=9,
    )


@pytest.fixture(scope="session")
def model(vocab):
    config = transformer.TransformerConfig(
        num_layers=2,
        num_heads=2,
        model_dim=16,
        head_dim=8,
        mlp_dim=32,
        vocab_size=vocab.size,
        max_length=96,
    )
    model = transformer.Transformer(config, rngs=nnx.Rngs(0))
    leaves, treedef = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        0.3 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return transformer.unstack(jax.tree.unflatten(treedef, leaves))
