"""A small vocabulary and a model with random weights, none of them zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.decoding import engine
from cm3leon_jax.decoding import writer as writers
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
    shapes = jax.eval_shape(lambda: transformer.Transformer(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    random = lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)
    return transformer.unstack(jax.tree.map(random, shapes))


class FakePictures:
    """An image tokenizer that is the identity on 3x3 pictures of 16 grey levels.

    Enough where only the order of codes and their way back matter.
    """

    image_size = 3

    def encode(self, pictures):
        return (pictures[..., 0].reshape(len(pictures), -1) // 16).astype(np.int32)

    def decode(self, codes):
        grey = (codes * 16).astype(np.uint8).reshape(-1, 3, 3, 1)
        return grey.repeat(3, axis=-1)


@pytest.fixture(scope="session")
def writer(model, vocab):
    pictures = FakePictures()
    return writers.Writer(
        model=model,
        vocab=vocab,
        encode_text=lambda text: [4 + ord(letter) % 20 for letter in text],
        decode_text=lambda ids: "".join(chr(ord("a") + i - 4) for i in ids),
        num_text_pieces=vocab.text_size,
        encode_pictures=pictures.encode,
        decode_pictures=pictures.decode,
        image_size=pictures.image_size,
        # As in test_engine: what is compiled there is used here.
        shapes=engine.Shapes(
            rows=(8,), prompt_lengths=(32,), steps=(24,), num_pieces=(12,)
        ),
    )
