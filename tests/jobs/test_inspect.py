import types

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import record, shards
from cm3leon_jax.data.record import Neighbors, Record
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.jobs import inspect
from cm3leon_jax.tokenizers import image, text
from cm3leon_jax.vocab import Vocab
from configs import inspect as inspect_config

VOCAB = Vocab(
    text_size=90, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")


@pytest.fixture
def tokenizers(monkeypatch):
    """Stand-ins: the job only decodes with them, and compares their digests."""
    texts = types.SimpleNamespace(digest="t", decode=lambda ids: f"words {ids}")
    images = types.SimpleNamespace(
        digest="i", decode=lambda codes: np.zeros((len(codes), 8, 8, 3), np.uint8)
    )
    monkeypatch.setattr(text.TextTokenizer, "load", lambda path: texts)
    monkeypatch.setattr(image.ImageTokenizer, "load", lambda path: images)
    return texts


def _shards(root, with_neighbors):
    def document(index):
        codes = VOCAB.image_ids(np.arange(4))
        tokens = np.array([10 + index, 11, VOCAB.break_id, *codes], np.uint16)
        near = Neighbors(
            np.array([0, 3], np.int32),
            np.array([0.75, 0.5], np.float32),
            np.array([True, False]),
            (tokens, tokens),
        )
        return Record(
            id=f"doc-{index}",
            tokens=tokens,
            modality=np.array([0, 1], np.uint8),
            source=f"source-{index}",
            licence="CC0",
            neighbors=near if with_neighbors else record.NO_NEIGHBORS,
        )

    written = shards.write_shard(root / "pairs", "train", 0, map(document, range(9)))
    shards.finish(root / "pairs", INFO, {"train": [written]})
    storage.write_json(root / "bank.json", {"format": 1, "splits": ["train"]})


def _config(root):
    config = inspect_config.get_config("debug")
    config.shards = str(root)
    config.tokenizer = config.image_tokenizer = "given"
    config.num_documents = 5
    return config


def test_inspect_writes_three_pages_with_provenance(tmp_path, tokenizers):
    _shards(tmp_path / "shards", with_neighbors=True)
    inspect.run(_config(tmp_path / "shards"), str(tmp_path / "out"))
    pages = {
        path.stem: path.read_text(encoding="utf-8")
        for path in (tmp_path / "out").glob("*.html")
    }
    assert set(pages) == {"documents", "neighbours", "batch"}
    assert "doc-8" in pages["documents"] and "licence CC0" in pages["documents"]
    assert "by picture 0.750" in pages["neighbours"]
    assert "by text 0.500" in pages["neighbours"]
    assert "source source-3" in pages["neighbours"]  # of the bank's document
    assert "Row 3" in pages["batch"] and "&lt;break&gt;" in pages["batch"]
    done = storage.read_json(tmp_path / "out" / "done.json")
    assert done["documents"] == 5 and done["neighbors_per_document"] == 2
    (shard,) = (tmp_path / "shards" / "pairs").glob("*.array_record-*")
    assert done["verified_bytes"] == {"pairs": shard.stat().st_size}
    assert 0 < done["batch"]["real_tokens"] <= 1


def test_inspect_without_neighbours_writes_no_contact_sheet(tmp_path, tokenizers):
    _shards(tmp_path / "shards", with_neighbors=False)
    inspect.run(_config(tmp_path / "shards"), str(tmp_path / "out"))
    names = {path.stem for path in (tmp_path / "out").glob("*.html")}
    assert names == {"documents", "batch"}


def test_inspect_reads_all_shards_and_names_one_that_was_exchanged(
    tmp_path, tokenizers
):
    _shards(tmp_path / "shards", with_neighbors=False)
    (path,) = (tmp_path / "shards" / "pairs").glob("*.array_record-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    config = _config(tmp_path / "shards")
    with pytest.raises(ValueError, match=f"{path.name} is not the shard .* written"):
        inspect.run(config, str(tmp_path / "out"))
    config.verify = False
    inspect.run(config, str(tmp_path / "again"))


def test_inspect_refuses_other_tokenizers(tmp_path, tokenizers):
    _shards(tmp_path / "shards", with_neighbors=False)
    tokenizers.digest = "other"
    with pytest.raises(ValueError, match="not the tokenizers that made"):
        inspect.run(_config(tmp_path / "shards"), str(tmp_path / "out"))
