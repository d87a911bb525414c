"""Perplexity equals the engine's own scores, and the unigram's closed form."""

import jax
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.decoding import engine, scoring
from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.evals import perplexity
from cm3leon_jax.models import transformer
from cm3leon_jax.train import step
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=24, image_size=16, control_size=16, num_sentinels=8, codes_per_image=9
)


def test_unigram_example():
    assert perplexity.unigram_perplexity(np.array([1, 1, 2])) == pytest.approx(
        2.8284271
    )


def test_perplexity_equals_the_scores_of_the_engine():
    config = transformer.TransformerConfig(
        num_layers=1,
        num_heads=2,
        model_dim=16,
        head_dim=8,
        mlp_dim=32,
        vocab_size=VOCAB.size,
        max_length=16,
        init_std=0.3,
    )
    model = transformer.Transformer(config, rngs=nnx.Rngs(0))
    ids_BL = np.asarray(jax.random.randint(jax.random.key(0), (4, 13), 0, VOCAB.size))
    ones_BL = np.ones((4, 12), np.int32)
    batch = Batch(
        ids_BL[:, :-1],
        ids_BL[:, 1:],
        ones_BL.astype(np.float32),
        ones_BL,
        np.broadcast_to(np.arange(12), (4, 12)).astype(np.int32),
    )
    metrics = perplexity.evaluate(model, [batch], VOCAB, step.StepConfig())
    shapes = engine.Shapes(rows=(4,), prompt_lengths=(16,))
    scored = scoring.scores(model, ids_BL[:, :1], ids_BL[:, 1:], shapes)
    scores_BL, targets_BL = np.stack(scored), ids_BL[:, 1:]
    for kind, chosen_BL in (
        ("text", VOCAB.is_text(targets_BL)),
        ("image", VOCAB.is_image(targets_BL)),
    ):
        expected = np.exp(-scores_BL[chosen_BL].mean())
        np.testing.assert_allclose(metrics[f"perplexity_{kind}"], expected, rtol=1e-5)
        assert metrics[f"perplexity_{kind}_guess"] <= 24


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="hold out more"):
        perplexity.evaluate(None, [], VOCAB, step.StepConfig())
