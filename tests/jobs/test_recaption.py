"""Captions by a checkpoint: new records that say so, the originals as they were."""

import numpy as np
import pytest

from cm3leon_jax import api
from cm3leon_jax.data import record, shards
from cm3leon_jax.decoding import engine
from cm3leon_jax.decoding.writer import Writer
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.jobs import folder, recaption
from cm3leon_jax.vocab import Vocab
from configs import recaption as config_file

VOCAB = Vocab(
    text_size=300, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = shards.SetInfo(VOCAB, "t", "i", "e", bank="b")
TEXTS = ("a long red story", "a long blue story")


def _record(index, pictures=1):
    codes = VOCAB.image_ids(np.arange(4) + index % 8)
    tokens = [4 + byte for byte in b"short"]
    for _ in range(pictures):
        tokens += [VOCAB.break_id, *codes]
    return record.Record(
        id=str(index),
        tokens=np.array(tokens, np.uint16),
        modality=np.array([0] + [1] * pictures, np.uint8),
        source="coco",
        licence="CC0",
        image_vector=np.array([index % 2, 1 - index % 2], np.float16),
    )


def _embed(texts):
    """`red` is the first axis, anything else the second."""
    return np.array([[1.0, 0.0] if "red" in t else [0.0, 1.0] for t in texts])


@pytest.fixture
def asked(tmp_path, monkeypatch):
    made = [_record(n, pictures=2 if n == 5 else 1) for n in range(40)]
    written = {"train": [shards.write_shard(tmp_path / "pairs", "train", 0, made)]}
    shards.finish(tmp_path / "pairs", INFO, written)
    encode = lambda text: [4 + byte for byte in text.encode()]
    writer = Writer(
        model=None,
        vocab=VOCAB,
        encode_text=encode,
        decode_text=lambda ids: bytes(one - 4 for one in ids).decode(),
        num_text_pieces=300,
        encode_pictures=None,
        decode_pictures=None,
        image_size=16,
    )
    model = api.Model(writer, "1f3a9c5d7e", embed_text=_embed, embed_pictures=None)
    monkeypatch.setattr(api, "load", lambda path, shapes: model)
    requests = []

    def generate(net, some, vocab, shapes):
        requests.extend(some)
        end = VOCAB.end_of_infill_id
        return [
            np.array([*encode(f" {TEXTS[n % 2]}"), end], np.int32)
            for n in range(len(some))
        ]

    monkeypatch.setattr(engine, "generate", generate)
    config = config_file.get_config("debug")
    config.model, config.source = "a model", str(tmp_path / "pairs")
    return config, requests


def test_new_records_hold_the_picture_the_best_text_and_where_from(asked, tmp_path):
    config, requests = asked
    recaption.run(config, str(tmp_path / "new"))
    source = shards.open(tmp_path / "new" / recaption.SET, "train")
    assert len(source) == 39 and source.info.bank == ""  # one had two pictures
    for one in source.records([0, 1, 17]):
        number = int(one.id.split("#")[0])
        text, picture = one.document(VOCAB).segments
        # Of two captions the one that is nearest to the picture's vector.
        expected = TEXTS[0] if number % 2 else TEXTS[1]
        assert "".join(chr(i - 4) for i in text.ids) == expected
        assert picture.modality == Modality.IMAGE
        np.testing.assert_array_equal(
            VOCAB.codes(picture.ids), np.arange(4) + number % 8
        )
        assert one.source == "synthetic (1f3a9c5d7e) of coco" and one.licence == "CC0"
        assert len(one.text_vector) == 2
    assert len(requests) == 39 * 2 and len({r.seed for r in requests}) == 78
    done = folder.summary(str(tmp_path / "new"))
    assert done["records"] == {"train": 39} and done["left_out"] == 1


def test_originals_stay_and_shards_that_are_done_are_kept(asked, tmp_path):
    config, requests = asked
    before = [path.read_bytes() for path in sorted((tmp_path / "pairs").glob("*"))]
    recaption.run(config, str(tmp_path / "new"))
    (tmp_path / "new" / "done.json").unlink()
    (tmp_path / "new" / "progress" / "train-00001.json").unlink()
    count = len(requests)
    recaption.run(config, str(tmp_path / "new"))
    assert len(requests) == count + 2 * 16
    after = [path.read_bytes() for path in sorted((tmp_path / "pairs").glob("*"))]
    assert after == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": "Tell me more."}, "none that tuning has"),
        ({"splits": ("test",)}, "none of the splits"),
    ],
)
def test_what_cannot_be_written_is_refused(asked, tmp_path, changes, words):
    config, _ = asked
    config.update(changes)
    with pytest.raises(ValueError, match=words):
        recaption.run(config, str(tmp_path / "new"))
