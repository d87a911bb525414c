"""Chameleon trained further: the image rows of its head alone, or all of it."""

import json

import numpy as np
import pytest

from cm3leon_jax import api
from cm3leon_jax.data import record, shards, trained
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.jobs import convert, train
from cm3leon_jax.train import metrics, state
from configs import convert as convert_config
from configs import pretrain, sft
from tests import chameleon_models, small_models

# The sizes of `debug`.
DEBUG = {"hidden_size": 128, "intermediate_size": 344, "max_position_embeddings": 192}


def _converted(root, shape):
    """A public folder of the sizes of `debug`, as ours; and shards of its vocabulary."""
    _, pixels = chameleon_models.write_folder(root / "public", shape, **DEBUG)
    made = convert_config.get_config("from_hf")
    made.update(source=str(root / "public"), target=str(root / "ours"))
    made.image_tokenizer = str(pixels)
    convert.run(made, str(root / "work"))
    info = trained.load(root / "ours").info
    written = {
        split: [
            shards.write_shard(
                root / "shards" / "pairs", split, 0, (_record(i, info) for i in numbers)
            )
        ]
        for split, numbers in (("train", range(40)), ("validation", range(40, 50)))
    }
    shards.finish(root / "shards" / "pairs", info, written)
    named = {"tokenizer": str(root / "ours"), "embedder": "", "tokenise": {"tasks": {}}}
    named["image_tokenizer"] = str(root / "ours" / "vqgan")
    (root / "shards" / "config.json").write_text(json.dumps(named))
    return root


def _record(index, info):
    vocab, rng = info.vocab, np.random.default_rng(index)
    text = Segment(Modality.TEXT, rng.integers(10, 30, 6).astype(np.int32))
    codes = rng.integers(0, 4, vocab.codes_per_image)  # a few codes: soon learnt
    picture = Segment(Modality.IMAGE, vocab.image_ids(codes).astype(np.int32))
    ids = documents.to_ids(Document((text, picture)), vocab).astype(np.uint16)
    assert len(ids) == 6 + vocab.codes_per_image + 2
    near = np.arange(2, dtype=np.int32)
    return record.Record(
        id=str(index),
        tokens=ids,
        modality=np.array([0, 1], np.uint8),
        neighbors=record.Neighbors(near, near * 1.0, near > 0, (ids, ids)),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return _converted(tmp_path_factory.mktemp("7b"), "7b")


def _config(folder, arg, module, **loop):
    made = module.get_config(arg)
    made.shards = str(folder / "shards")
    made.init_from = str(folder / "ours")
    made.num_cpu_devices = 0  # the tests' eight devices
    made.mesh.update(data=2, fsdp=4)
    made.loader.update(batch_size=8, max_length=96)
    made.loop.update(loop)
    made.evaluation.neighbors = (0,)
    return made


def test_only_image_rows_of_the_head_change_and_the_model_draws(folder, tmp_path):
    made = _config(folder, "chameleon-7b,image_head,debug", sft)
    assert made.loop.num_steps == 10
    train.run(made, str(tmp_path / "run"))
    tuned, context = state.load_model(str(tmp_path / "run"))
    vocab = shards.SetInfo.from_json(context["shards"]).vocab
    before = small_models.arrays_of(trained.load(folder / "ours").model)
    after = small_models.arrays_of(tuned)
    assert before.keys() == after.keys()
    is_image_V = vocab.is_image(np.arange(vocab.size))
    for name, array in before.items():
        if name != "head_VD":
            assert array.tobytes() == after[name].tobytes(), name
    one, two = before["head_VD"], after["head_VD"]
    assert one[~is_image_V].tobytes() == two[~is_image_V].tobytes()
    assert (one[is_image_V] != two[is_image_V]).any(axis=1).all()
    found = metrics.read(tmp_path / "run" / "metrics.jsonl")
    losses = [each["loss_image"] for each in found if "loss_image" in each]
    assert losses[-1] < losses[0]

    model = api.load(tmp_path / "run", with_bank=False)
    drawn = model.draw("a red circle", 2, guidance=3.0)
    assert drawn.shape == (2, 8, 8, 3) and drawn.dtype == np.uint8


@pytest.mark.slow
def test_all_of_the_30b_kind_learns_with_masks_and_neighbours(tmp_path):
    folder = _converted(tmp_path / "root", "30b")
    made = _config(folder, "chameleon-7b,debug", pretrain, num_steps=3, save_every=3)
    made.optimizer.warmup_steps = 1
    made.loader.neighbor_probs = (0.0, 0.0, 1.0)
    made.loader.cm3.min_spans = 1
    with pytest.raises(ValueError, match=r"norm_order='post'.*--config\.model"):
        train.run(made, str(tmp_path / "refused"))
    made.model.update(norm_order="post", num_kv_heads=2)
    train.run(made, str(tmp_path / "run"))
    before = small_models.arrays_of(trained.load(folder / "ours").model)
    after = small_models.arrays_of(state.load_model(str(tmp_path / "run"))[0])
    for name, array in before.items():
        assert np.isfinite(after[name]).all() and (after[name] != array).any(), name
    made = convert_config.get_config("to_hf")
    made.update(source=str(tmp_path / "run"), target=str(tmp_path / "hf"))
    convert.run(made, str(tmp_path / "work"))
    record_json = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert record_json["swin_norm"] and record_json["num_key_value_heads"] == 2
