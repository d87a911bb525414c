"""The table before training, and where sets lie."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax.data import record, shards
from cm3leon_jax.data.streams import LoaderConfig
from cm3leon_jax.documents import packing
from cm3leon_jax.documents.cm3 import CM3Config
from cm3leon_jax.jobs import mixing
from cm3leon_jax.reports import mixture as report
from cm3leon_jax.vocab import Vocab
from configs import sft

# 1,024 codes a picture, as in the paper: text is a hundredth of a document.
VOCAB = Vocab(text_size=300, image_size=64, control_size=40, num_sentinels=20)
INFO = shards.SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")


def _record(index, target=True):
    codes = VOCAB.image_ids(np.zeros(VOCAB.codes_per_image, np.int32))
    text = [4 + byte for byte in b"Answer: red."]
    return record.Record(
        id=str(index),
        tokens=np.array([*text, VOCAB.break_id, *codes], np.uint16),
        modality=np.array([0, 1], np.uint8),
        target=(7, 11) if target else None,
    )


def _near(number):
    tokens = _record(0, False).tokens
    zeros = np.zeros(number, np.float32)
    return record.Neighbors(
        np.arange(number, dtype=np.int32), zeros, zeros > 0, (tokens,) * number
    )


@pytest.mark.parametrize("length", [4096, 4224])
def test_the_table_says_how_many_retrieved_documents_have_no_room(
    config, tmp_path, length
):
    made = [dataclasses.replace(_record(i, False), neighbors=_near(4)) for i in (0, 1)]
    place = tmp_path / "joined" / "pairs"
    written = {"train": [shards.write_shard(place, "train", 0, made)]}
    shards.finish(place, INFO, written)
    config.shards, config.sets = str(tmp_path / "joined"), {"pairs": 1.0}
    config.mixture.folders = ""
    loader = LoaderConfig(max_length=length, neighbor_probs=(0.0, 0.0, 0.0, 1.0))
    config.loop.num_steps = 3
    mixing.announce(config, loader, str(tmp_path))
    table = (tmp_path / mixing.FILE).read_text()
    said = "2.0 retrieved documents stand in front of each, 1.0 more have no room"
    assert (said in table) == (length == 4096)


def _write(place, count, target=True):
    made = [_record(index, target) for index in range(count)]
    written = {"train": [shards.write_shard(place, "train", 0, made)]}
    shards.finish(place, INFO, written)


@pytest.fixture
def config(tmp_path):
    _write(tmp_path / "shards" / "pairs", 100, target=False)
    _write(tmp_path / "shards" / "vqa", 80)
    _write(tmp_path / "elsewhere" / "coco", 8)
    made = sft.get_config("debug")
    made.sets = {"pairs": 1.0, "vqa": 1.0, "coco": 1.0, "edit": 0.0}
    made.shards = str(tmp_path / "shards")
    made.mixture.folders = f"coco={tmp_path / 'elsewhere' / 'coco'}"
    return made


def test_sets_lie_where_the_config_says_and_weigh_what_it_balances(config, tmp_path):
    config.mixture.limits, config.mixture.shares = (0.3, 3.0), "pairs=0.2"
    found = mixing.specs(config, "train")
    assert [spec.folder for spec in found] == [
        str(tmp_path / "elsewhere" / "coco"),
        str(tmp_path / "shards" / "pairs"),
        str(tmp_path / "shards" / "vqa"),
    ]
    coco, pairs, vqa = (spec.weight for spec in found)
    assert pairs / (coco + pairs + vqa) == pytest.approx(0.2)
    assert (vqa, coco) == (44.0, 24.0)  # 88 alike; coco at most three times
    assert [spec.with_neighbors for spec in found] == [False, True, False]


def test_without_a_balance_weights_are_the_configs_own(config):
    assert [spec.weight for spec in mixing.specs(config, "train")] == [1.0] * 3


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_the_table_says_how_often_an_answer_is_the_infill(
    config, tmp_path, capsys, prob
):
    loader = LoaderConfig(
        max_length=1100,
        batch_size=4,
        num_streams=2,
        neighbor_probs=(1.0,),
        cm3=CM3Config(target_mask_prob=prob),
        weights=packing.LossWeights(),
    )
    config.loop.num_steps = 30
    mixing.announce(config, loader, str(tmp_path))
    text = (tmp_path / mixing.FILE).read_text()
    assert text == capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert lines["pairs"][-1] == "-"
    asked = int(lines["vqa"][-2]) / 100
    assert abs(asked - prob) < 0.2 and (prob > 0 or asked == 0)
    # 132,000 tokens are 126 documents of 1,038, a third of them of coco's eight.
    assert float(lines["coco"][4]) == pytest.approx(126 / 3 / 8, rel=0.05)
    assert lines["vqa"][1] == "80"


def test_an_example_shows_its_target_in_braces_and_pictures_as_marks():
    decode = lambda ids: bytes(one - 4 for one in ids).decode()
    assert report.example(_record(0), VOCAB, decode) == (
        "Answer:{ red}. <break> [picture]"
    )
    whole = report.example(_record(0, target=False), VOCAB, None)
    assert whole == "[text of 12 ids] <break> [picture]"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("folders", "coco", "must be name=value"),
        ("folders", "ocr=/x", "'ocr', which is no set"),
        ("shares", "pairs=much", "is no number"),
        ("shares", "edit=0.5", "no set with weight"),
    ],
)
def test_a_mixture_that_is_misspelt_is_refused(config, field, value, words):
    config.mixture[field] = value
    with pytest.raises(ValueError, match=words):
        mixing.specs(config, "train")


def test_sets_that_all_weigh_nothing_are_refused(config):
    config.sets = {"pairs": 0.0}
    config.mixture.folders = ""
    with pytest.raises(ValueError, match="sum to nothing"):
        mixing.specs(config, "train")


def test_documents_that_fit_no_row_are_counted_and_refused_if_all_are(config, tmp_path):
    loader = LoaderConfig(max_length=1038, neighbor_probs=(1.0,), num_streams=2)
    mixing.announce(config, loader, str(tmp_path))  # 1,037 ids and two </s>: it fits
    assert "fit no row" not in (tmp_path / mixing.FILE).read_text()
    with pytest.raises(ValueError, match="none of the 8 documents of 'coco'"):
        shorter = LoaderConfig(max_length=1037, neighbor_probs=(1.0,), num_streams=2)
        mixing.announce(config, shorter, str(tmp_path))
