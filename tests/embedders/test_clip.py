"""Laws of the embedder: saved is loaded, batches change nothing, drops are repeatable."""

import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import sharding, storage
from cm3leon_jax.embedders import clip as embedder
from cm3leon_jax.models import clip
from cm3leon_jax.tokenizers import text

TOWER = clip.TowerConfig(num_layers=1, model_dim=16, num_heads=2, mlp_dim=32)
TEXTS = ["a red circle at the top", "a blue square", "", "the crest of Zarvok " * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    tokenizer = text.train(TEXTS * 5, 300, root / "text.model")
    config = clip.ClipConfig(
        16, 4, TOWER, TOWER, tokenizer.vocab_size, max_length=24, eos_id=2, embed_dim=8
    )
    model = clip.Clip(config, rngs=nnx.Rngs(0))
    embedder.save(root / "saved", model, config, root / "text.model")
    return root / "saved"


@pytest.fixture(scope="module")
def embed(folder):
    return embedder.ClipEmbedder.load(folder)


def _pictures(count=5, size=16):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def test_vectors_have_length_one(embed):
    for vectors in (embed.embed_text(TEXTS), embed.embed_pictures(_pictures())):
        assert vectors.dtype == np.float32 and vectors.shape[1] == embed.dim == 8
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("drop_prob", [0.0, 0.4])
def test_vectors_do_not_depend_on_the_batch(embed, drop_prob):
    options = {"drop_prob": drop_prob, "seed": 3}
    together = embed.embed_text(TEXTS, **options)
    alone = [embed.embed_text([one], **options)[0] for one in TEXTS]
    np.testing.assert_array_equal(together, alone)
    together = embed.embed_pictures(_pictures(), **options)
    alone = [embed.embed_pictures(one[None], **options)[0] for one in _pictures()]
    np.testing.assert_array_equal(together, alone)


def test_drops_depend_on_the_seed(embed):
    for call, inputs in (
        (embed.embed_text, TEXTS),
        (embed.embed_pictures, _pictures()),
    ):
        first, again, other = (
            call(inputs, drop_prob=0.4, seed=seed) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1e-3
        assert np.abs(first - call(inputs)).max() > 1e-3


def test_load_gives_the_same_vectors_and_digest(embed, folder):
    again = embedder.ClipEmbedder.load(folder)
    assert again.digest == embed.digest
    np.testing.assert_array_equal(again.embed_text(TEXTS), embed.embed_text(TEXTS))


def test_empty_lists_give_empty_vectors(embed):
    assert embed.embed_text([]).shape == (0, 8)
    assert embed.embed_pictures(_pictures(0)).shape == (0, 8)


def test_frame_keeps_the_end_of_a_long_text():
    assert embedder.frame([7, 8, 9], 4, 0, 2) == [0, 7, 8, 2]
    assert embedder.pad([[0, 7, 2]], 5, 2).tolist() == [[0, 7, 2, 2, 2]]


def test_fit_resizes_the_shorter_side_and_takes_the_centre():
    wide = np.zeros((1, 20, 60, 3), np.uint8)
    wide[:, :, 20:40] = 200
    fitted = embedder.fit(wide, 10)
    assert fitted.shape == (1, 10, 10, 3)
    assert (fitted >= 180).all()
    same = _pictures()
    assert embedder.fit(same, 16) is same


def test_pictures_of_another_type_are_refused(embed):
    with pytest.raises(ValueError, match="uint8"):
        embed.embed_pictures(_pictures().astype(np.float32))


def test_load_refuses_a_missing_and_a_foreign_folder(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="train one"):
        embedder.ClipEmbedder.load(tmp_path)
    for name in ("weights.safetensors", "text.model", "config.json"):
        storage.write_bytes(tmp_path / name, (folder / name).read_bytes())
    record = storage.read_json(tmp_path / "config.json")
    record["model"]["embed_dim"] = 9
    storage.write_json(tmp_path / "config.json", record)
    with pytest.raises(ValueError, match="projection"):
        embedder.ClipEmbedder.load(tmp_path)
    record["model"]["width"] = 9
    storage.write_json(tmp_path / "config.json", record)
    with pytest.raises(ValueError, match="width"):
        embedder.ClipEmbedder.load(tmp_path)


def test_vectors_on_many_devices_are_those_of_one(embed, folder):
    rows = sharding.LocalRows()
    many = embedder.ClipEmbedder.load(folder, rows=rows)
    pictures, texts = _pictures(), ["a red ring", "two", ""]
    np.testing.assert_array_equal(many.embed_text(texts), embed.embed_text(texts))
    for drop in (0.0, 0.5):
        np.testing.assert_array_equal(
            many.embed_pictures(pictures, drop_prob=drop),
            embed.embed_pictures(pictures, drop_prob=drop),
        )
