import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import shards
from cm3leon_jax.data.bank import Bank
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.retrieval.strategy import StrategyConfig
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=32, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i", embedder="e")
# The first two documents are near-duplicates of one another, the third is none.
VECTORS = np.array([[1, 0, 0], [0.99, 0.14, 0], [0.6, 0, 0.8]], np.float16)


def _bank(folder, strategy):
    records = [
        Record(
            id=f"doc-{index}",
            tokens=np.array([5, VOCAB.break_id, *[40] * 4], np.uint16),
            modality=np.array([Modality.TEXT, Modality.IMAGE], np.uint8),
            text_vector=vector,
            image_vector=vector,
        )
        for index, vector in enumerate(VECTORS)
    ]
    written = [shards.write_shard(folder, "train", 0, records)]
    shards.finish(folder, INFO, {"train": written})
    return Bank([shards.open(folder, "train")], strategy)


@pytest.mark.parametrize(("max_similarity", "places"), [(1.0, [0, 1]), (0.95, [0, 2])])
def test_bank_finds_by_the_rules_that_it_was_given(tmp_path, max_similarity, places):
    # A query half-way to the third: more than 0.95 to none of the documents.
    strategy = StrategyConfig(max_similarity=max_similarity, num_candidates=3)
    query = np.array([[0.9, -0.3, 0.316]], np.float32)
    query /= np.linalg.norm(query)
    found = _bank(tmp_path, strategy).find(query, 2)
    assert [each.place for each in found[0]] == places


def _unit(*values):
    return np.array([values], np.float32) / np.linalg.norm(values)


def test_bank_is_asked_by_text_by_picture_or_by_both(tmp_path):
    bank = _bank(tmp_path, StrategyConfig(max_similarity=1.0, num_candidates=3))
    first, third = _unit(1, 0, 0.1), _unit(0.6, 0, 0.9)
    for text, image, place in ((first, None, 0), (None, third, 2)):
        assert bank.find(text, 1, image_NE=image)[0][0].place == place
    both = bank.find(first, 3, image_NE=third)[0]
    mean = (first + third) / np.linalg.norm(first + third)
    alone = bank.find(mean, 3)[0]
    assert [one.place for one in both] == [one.place for one in alone]
    assert both[0].score == pytest.approx(alone[0].score, abs=1e-6)
    with pytest.raises(ValueError, match="or both"):
        bank.find(None, 1)


def test_documents_that_were_kept_out_are_not_found(tmp_path):
    storage.save_arrays(
        tmp_path / "kept_out.safetensors", {"ids": np.array([0], np.int32)}
    )
    bank = _bank(
        tmp_path / "pairs", StrategyConfig(max_similarity=1.0, num_candidates=3)
    )
    assert {one.place for one in bank.find(_unit(1, 0, 0), 3)[0]} == {1, 2}
