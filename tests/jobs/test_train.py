"""The training job on small shards: resumed, started from weights, refused."""

import json

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import record, shards
from cm3leon_jax.jobs import train
from cm3leon_jax.train import checkpoint, metrics, state
from cm3leon_jax.vocab import Vocab
from configs import pretrain, sft

VOCAB = Vocab(
    text_size=40, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = shards.SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")


def _record(index):
    rng = np.random.default_rng(index)
    codes = VOCAB.image_ids(rng.integers(0, 16, 4))
    text = rng.integers(10, 20, rng.integers(4, 9))
    near = np.array([30, VOCAB.break_id, *codes], np.uint16)
    ids = np.arange(2, dtype=np.int32)
    found = record.Neighbors(ids, ids * 1.0, ids > 0, (near, near))
    return record.Record(
        id=str(index),
        tokens=np.array([*text, VOCAB.break_id, *codes], np.uint16),
        modality=np.array([0, 1], np.uint8),
        target=(1, 3),
        neighbors=found,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    for name in ("pairs", "caption", "vqa", "edit", "layout", "segmentation"):
        written = {
            split: [shards.write_shard(root / name, split, 0, map(_record, numbers))]
            for split, numbers in (("train", range(40)), ("validation", range(40, 50)))
        }
        shards.finish(root / name, INFO, written)
    return root


def config(folder, arg="debug", module=pretrain, **loop):
    made = module.get_config(arg)
    made.shards = str(folder)
    made.num_cpu_devices = 0  # the tests' eight devices
    made.mesh.update(data=2, fsdp=4)
    made.loader.update(batch_size=8, max_length=32)
    made.loop.update(loop)
    return made


def test_run_leaves_a_model_its_vocabulary_and_numbers(folder, tmp_path):
    train.run(config(folder), str(tmp_path / "a"))
    done = storage.read_json(tmp_path / "a/done.json")
    assert {"validation_perplexity_text_0", "validation_perplexity_image_2"} <= {*done}
    losses = [
        e["loss"] for e in metrics.read(tmp_path / "a/metrics.jsonl") if "loss" in e
    ]
    assert losses[-1] < losses[0]
    model, context = state.load_model(str(tmp_path / "a"))
    assert shards.SetInfo.from_json(context["shards"]) == INFO
    assert model.config.vocab_size == VOCAB.size

    # Instruction tuning starts from these weights, at step 0.
    tuning = config(folder, module=sft)
    tuning.init_from = str(tmp_path / "a")
    tuning.optimizer.update(trained=("blocks/*",))
    train.run(tuning, str(tmp_path / "b"))
    tuned, _ = state.load_model(str(tmp_path / "b"))
    same = lambda name: np.array_equal(
        getattr(model, name)[...], getattr(tuned, name)[...]
    )
    assert same("token_embedding_VD")  # not among those trained
    assert not np.array_equal(model.blocks.up_DF[...], tuned.blocks.up_DF[...])

    other = config(folder)
    other.model.model_dim = 64
    other.init_from = str(tmp_path / "a")
    with pytest.raises(ValueError, match="use the model config"):
        train.run(other, str(tmp_path / "c"))


def test_run_resumed_from_its_middle_gives_the_same_bytes(folder, tmp_path):
    train.run(config(folder), str(tmp_path / "whole"))
    train.run(config(folder), str(tmp_path / "parts"))
    # As if it had been killed after step 5: the later checkpoint and the end are gone.
    (tmp_path / "parts/done.json").unlink()
    last = tmp_path / "parts/checkpoints/00000010"
    last.rename(tmp_path / "moved")
    train.run(config(folder), str(tmp_path / "parts"))
    whole, parts = (
        checkpoint.read(tmp_path / x / "checkpoints") for x in ("whole", "parts")
    )
    assert whole.step == parts.step == 10
    for name in whole.state:
        assert whole.state[name].tobytes() == parts.state[name].tobytes(), name
    assert json.dumps(whole.data) == json.dumps(parts.data)


def test_rows_longer_than_the_positions_are_refused(folder, tmp_path):
    wrong = config(folder)
    wrong.loader.max_length = 256
    with pytest.raises(ValueError, match="need as many positions"):
        train.run(wrong, str(tmp_path))
