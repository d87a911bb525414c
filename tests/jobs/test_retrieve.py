import pathlib

import ml_collections
import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import shards
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.jobs import retrieve
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=90, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i", embedder="e")
SIZES = {"train": 24, "validation": 6, "test": 5, "bank": 7}


def _unit(rng):
    vector = rng.normal(size=8)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def _records(split, count, has_vectors):
    rng = np.random.default_rng(len(split))
    made = []
    for index in range(count):
        fields = {"text_vector": _unit(rng), "image_vector": _unit(rng)}
        if split == "train":
            fields["query_text_vector"] = fields["text_vector"]
            fields["query_image_vector"] = fields["image_vector"]
        # The first token names the split, the second the document.
        tokens = [len(split), index, VOCAB.break_id, *VOCAB.image_ids(np.arange(4))]
        record = Record(
            id=f"{split}-{index}",
            tokens=np.array(tokens, np.uint16),
            modality=np.array([0, 1], np.uint8),
            **(fields if has_vectors else {}),
        )
        made.append(record)
    return made


def _shards(root, sizes=None, has_vectors=True):
    written = {
        split: [
            shards.write_shard(
                root / "pairs", split, 0, _records(split, count, has_vectors)
            )
        ]
        for split, count in (sizes or SIZES).items()
    }
    shards.finish(root / "pairs", INFO, written)
    caption = shards.write_shard(
        root / "caption", "train", 0, _records("train", 3, False)
    )
    shards.finish(root / "caption", INFO, {"train": [caption]})
    storage.write_json(root / "vocab.json", VOCAB.to_json())
    return root


def _config(source, **changes):
    return ml_collections.ConfigDict(
        {
            "job": "retrieve",
            "shards": str(source),
            "bank": ("train", "bank"),
            "train_bank": ("train",),
            "strategy": {
                "num_by_image": 2,
                "num_by_text": 2,
                "num_candidates": 16,
                "max_similarity": 0.9,
                "min_score": -1.0,
                "prefer_multimodal": True,
            },
            "rows_per_shard": 10,
            **changes,
        }
    )


def _read(folder, split):
    source = shards.open(folder / "pairs", split)
    return source.records(range(len(source)))


def test_neighbours_come_with_the_tokens_of_their_bank_document(tmp_path):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "out"))
    for split in SIZES:
        for index, record in enumerate(_read(tmp_path / "out", split)):
            near = record.neighbors
            assert len(near.ids) == 4 and record.id == f"{split}-{index}"
            np.testing.assert_array_equal(near.by_image, [True, True, False, False])
            for place, tokens in zip(near.ids, near.tokens, strict=True):
                name = ("train", place) if place < 24 else ("bank", place - 24)
                assert (tokens[0], tokens[1]) == (len(name[0]), name[1])
                assert name != (split, index)  # never the document itself
                assert name[0] == "train" or split != "train"


def test_the_other_sets_and_the_vocabulary_are_found_beside(tmp_path):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "out"))
    assert len(shards.open(tmp_path / "out" / "caption", "train")) == 3
    assert Vocab.from_json(storage.read_json(tmp_path / "out" / "vocab.json")) == VOCAB
    joined = shards.open(tmp_path / "out" / "pairs", "train")
    shards.check(joined, INFO)
    assert joined.info.bank


def test_an_interrupted_job_goes_on_and_writes_the_same_bytes(tmp_path, monkeypatch):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "whole"))
    real, calls = shards.write_shard, []

    def interrupted(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retrieve.run(_config(source), str(tmp_path / "again"))
    monkeypatch.setattr(shards, "write_shard", real)
    retrieve.run(_config(source), str(tmp_path / "again"))
    for path in sorted((tmp_path / "whole").rglob("*array_record*")):
        twin = tmp_path / "again" / path.relative_to(tmp_path / "whole")
        assert twin.read_bytes() == path.read_bytes()


def test_a_folder_without_a_bank_split_searches_its_training_split(tmp_path):
    sizes = {"train": 24, "validation": 6}
    source = _shards(tmp_path / "shards", sizes)
    retrieve.run(_config(source), str(tmp_path / "out"))
    for record in _read(tmp_path / "out", "validation"):
        assert (record.neighbors.ids < 24).all() and len(record.neighbors.ids) == 4


def test_shards_without_vectors_or_bank_are_refused(tmp_path):
    source = _shards(tmp_path / "plain", has_vectors=False)
    with pytest.raises(ValueError, match="no vectors"):
        retrieve.run(_config(source), str(tmp_path / "a"))
    source = _shards(tmp_path / "shards")
    with pytest.raises(ValueError, match="names no split"):
        retrieve.run(_config(source, bank=("other",)), str(tmp_path / "b"))
    with pytest.raises(FileNotFoundError):
        retrieve.run(_config(pathlib.Path("/none")), str(tmp_path / "c"))
