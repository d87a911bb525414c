"""Laws of contrastive training: the loss by hand, the batches, a task it learns."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import clip
from cm3leon_jax.train import contrastive

TOWER = clip.TowerConfig(num_layers=1, model_dim=16, num_heads=2, mlp_dim=32)
SHAPE = clip.ClipConfig(
    image_size=8,
    patch_size=4,
    vision=TOWER,
    text=TOWER,
    vocab_size=40,
    max_length=16,
    eos_id=2,
    embed_dim=8,
)
CONFIG = contrastive.ContrastiveConfig(
    num_steps=60,
    batch_size=8,
    peak_lr=1e-2,
    warmup_steps=5,
    weight_decay=0.0,
    clip_norm=1.0,
    piece_drop_prob=0.0,
    patch_drop_prob=0.0,
    text_weight=0.5,
    text_logit_scale=20.0,
    rare_share=1.0,
    seed=0,
)


def _pairs(config=CONFIG, count=16):
    """Pictures of noise; the text names the picture."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    texts = [[5, 10 + number] for number in range(count)]
    return contrastive.Pairs(pictures, texts, SHAPE, config)


def test_loss_of_equal_vectors_is_the_logarithm_of_the_batch():
    same = jnp.ones((6, 4)) / 2
    value = contrastive.loss(same, same, jnp.asarray(10.0))
    np.testing.assert_allclose(value, np.log(6), rtol=1e-5)


def test_loss_equals_both_directions_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 4))
    logits = 3.0 * a @ b.T
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    wanted = (rows.mean() + columns.mean()) / 2
    value = contrastive.loss(jnp.asarray(a), jnp.asarray(b), jnp.asarray(3.0))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_temperature_is_clamped_at_one_hundred():
    scales = [contrastive.clamped(jnp.asarray(one)) for one in (0.0, 2.0, 9.0)]
    np.testing.assert_allclose(scales, [1, np.exp(2), 100], rtol=1e-5)


def test_training_matches_pictures_and_texts():
    definition, state, step = contrastive.init(SHAPE, CONFIG)
    batches = _pairs()
    for _ in range(CONFIG.num_steps):
        state, metrics = step(state, next(batches))
    assert metrics["found"] >= 0.5 and metrics["loss"] < np.log(8)
    assert nnx.merge(definition, state.params).logit_scale[...] < np.log(101)


def test_batches_continue_where_they_were():
    config = dataclasses.replace(CONFIG, piece_drop_prob=0.3, patch_drop_prob=0.5)
    whole, again = _pairs(config), _pairs(config)
    first = [next(whole) for _ in range(5)]
    again.set_state(3)
    for wanted, found in zip(first[3:], [next(again), next(again)], strict=True):
        for left, right in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(left, right)
    assert whole.get_state() == 5 and first[0].kept_BP.shape == (8, 2)


def test_an_epoch_shows_every_pair_once():
    batches = _pairs()
    seen = np.concatenate([next(batches).texts_BL[:, 2] for _ in range(2)])
    assert sorted(seen) == list(range(10, 26))


def test_dropped_pieces_leave_no_gap():
    config = dataclasses.replace(CONFIG, piece_drop_prob=0.5)
    texts = [[5, 6, 7, 8, 9]] * 8
    pictures = np.zeros((8, 8, 8, 3), np.uint8)
    batch = next(contrastive.Pairs(pictures, texts, SHAPE, config))
    for row in batch.texts_BL:
        kept = row[1 : 1 + np.count_nonzero(row > 2)]
        assert row[0] == 0 and (row[1 + len(kept) :] == 2).all()
        assert (np.diff(kept) > 0).all() and set(kept) <= {5, 6, 7, 8, 9}
    assert len({len(row[row > 2]) for row in batch.texts_BL}) > 1
    assert (batch.rare_texts_BL[:, 1:6] == [5, 6, 7, 8, 9]).all()


def test_second_view_is_short_and_always_ends():
    config = dataclasses.replace(CONFIG, rare_share=0.02)
    texts = [[5, 6, 7, 8, 9, 11, 12, 13, 14, 20 + number] for number in range(16)]
    pictures = np.zeros((16, 8, 8, 3), np.uint8)
    batch = next(contrastive.Pairs(pictures, texts, SHAPE, config))
    assert batch.rare_texts_BL.shape[1] < batch.texts_BL.shape[1] == 12
    assert (batch.rare_texts_BL[:, -1] == 2).all()
    names = (batch.rare_texts_BL >= 20).sum(axis=1)
    others = (batch.rare_texts_BL > 2).sum(axis=1) - names
    assert names.mean() > 0.3 > others.mean() / 9


def test_keep_probs_equal_the_worked_example():
    texts = [[1, 2], [1, 3], [1, 2], [1, 2]]
    probs = contrastive.keep_probs(texts, 4, 0.25)
    np.testing.assert_allclose(probs[1:], [1 / 4, 1 / 3, 1], rtol=1e-6)


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="lower"):
        _pairs(count=4)
    with pytest.raises(ValueError, match="at least 2"):
        contrastive.init(SHAPE, dataclasses.replace(CONFIG, batch_size=1))
