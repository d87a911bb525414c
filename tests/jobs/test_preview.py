"""Previews while training: the same requests every time, and no step is changed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cm3leon_jax import storage
from cm3leon_jax.data import record, shards
from cm3leon_jax.jobs import preview, train
from cm3leon_jax.models import vqgan
from cm3leon_jax.tokenizers import image, text
from cm3leon_jax.train import checkpoint, metrics
from cm3leon_jax.vocab import Vocab
from configs import pretrain
from tests import shapes

VOCAB = Vocab(
    text_size=300, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
SHAPE = dataclasses.replace(shapes.VQGAN, image_size=4)
WORDS = ("a red crest on a tan wall", "two blue crests", "a small green crest")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of few pairs beside the tokenizers that made them."""
    root = tmp_path_factory.mktemp("run")
    texts = text.train(WORDS, VOCAB.text_size, root / "tokenizer" / text.FILE_NAME)
    network = vqgan.Vqgan(SHAPE, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    info = shards.SetInfo(VOCAB, texts.digest, image.save(network, root / "vqgan"))

    def document(index):
        rng = np.random.default_rng(index)
        words = texts.encode(WORDS[index % len(WORDS)])
        codes = VOCAB.image_ids(rng.integers(0, 16, 4))
        tokens = np.array([*words, VOCAB.break_id, *codes], np.uint16)
        return record.Record(str(index), tokens, np.array([0, 1], np.uint8))

    written = {
        split: [shards.write_shard(root / "shards/pairs", split, 0, map(document, n))]
        for split, n in (("train", range(40)), ("validation", range(40, 50)))
    }
    shards.finish(root / "shards/pairs", info, written)
    places = {"tokenizer": "old/tokenizer", "image_tokenizer": str(root / "vqgan")}
    storage.write_json(root / "shards/config.json", places)
    storage.write_json(root / "retrieve/config.json", {"shards": str(root / "shards")})
    (root / "shards/pairs").rename(root / "retrieve/pairs")
    return root


def config(folder, **watch):
    made = pretrain.get_config("debug")
    made.shards = str(folder / "retrieve")
    made.num_cpu_devices = 0  # the tests' eight devices
    made.mesh.update(data=2, fsdp=4)
    made.loader.update(batch_size=8, max_length=64)
    made.evaluation.neighbors = (0,)
    made.watch.update(watch)
    return made


def steps(workdir):
    timed = ("per_second", "share", "memory")
    entries = metrics.read(workdir / "metrics.jsonl")
    return [
        {name: x for name, x in entry.items() if not any(t in name for t in timed)}
        for entry in entries
        if "loss" in entry
    ]


@pytest.mark.slow
def test_drawing_and_evaluating_change_no_step_and_no_bit(folder, tmp_path):
    plain = config(folder)
    plain.loop.eval_every = 0
    train.run(plain, str(tmp_path / "plain"))
    shown = config(folder, draw_every=5, num_pictures=3, profile_first_step=4)
    shown.loop.eval_every = 5
    train.run(shown, str(tmp_path / "shown"))
    assert steps(tmp_path / "shown") == steps(tmp_path / "plain")
    assert {"parameter_norm", "gradient_norm", "perplexity_text"} <= {
        *steps(tmp_path / "shown")[0]
    }
    states = [
        checkpoint.read(tmp_path / name / "checkpoints").state
        for name in ("plain", "shown")
    ]
    for name in states[0]:
        assert states[0][name].tobytes() == states[1][name].tobytes(), name
    assert list((tmp_path / "shown/profile").rglob("*.xplane.pb"))

    made = sorted((tmp_path / "shown/previews").iterdir())
    assert [path.name for path in made] == [
        f"{step:08d}.{kind}" for step in (5, 10) for kind in ("json", "png")
    ]
    captions = json.loads(made[0].read_text())
    assert [each["caption"] for each in captions] == [
        WORDS[index % len(WORDS)] for index in range(40, 43)
    ]
    with Image.open(made[1]) as sheet:
        assert sheet.size == (3 * SHAPE.image_size, 2 * SHAPE.image_size)


def test_tuned_captions_are_asked_for_by_the_words_of_the_task(folder):
    info = shards.open(folder / "retrieve/pairs", "validation").info
    load = lambda is_tuned: preview.load(
        str(folder / "retrieve"), "pairs", 2, info, is_tuned=is_tuned
    )
    plain, tuned = load(False)._caption(0), load(True)._caption(0)
    decode = load(True).texts.decode
    words = lambda ids: decode([i for i in ids.tolist() if VOCAB.is_text(i)])
    assert "Describe the given picture." in words(tuned.streams[0])
    assert words(plain.streams[0]).strip() == ""  # the text is masked, nothing else is
    for request in (plain, tuned):
        codes = request.streams[0][VOCAB.is_image(request.streams[0])]
        np.testing.assert_array_equal(codes, load(True).documents[0].segments[1].ids)


def test_other_tokenizers_than_those_of_the_shards_are_refused(folder):
    info = shards.SetInfo(VOCAB, "another", "one")
    with pytest.raises(ValueError, match="not those of its shards"):
        preview.load(str(folder / "retrieve"), "pairs", 2, info, is_tuned=False)


def test_preview_that_needs_more_positions_is_refused_before_training(folder, tmp_path):
    short = config(folder, draw_every=5)
    short.model.max_length = short.loader.max_length = 16
    with pytest.raises(ValueError, match="positions"):
        train.run(short, str(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()
