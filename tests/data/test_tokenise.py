import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import tokenise
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import imagefolder, inputs
from cm3leon_jax.data.sources.row import SourceConfig
from cm3leon_jax.data.tokenise import TokeniseConfig, Tools
from cm3leon_jax.tokenizers import text
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=300, image_size=256, control_size=40, num_sentinels=20, codes_per_image=4
)
PICTURE = PictureConfig(image_size=16)
CONFIG = TokeniseConfig(
    tasks={"caption": {}, "vqa": {"max_questions": 2}, "edit": {}, "layout": {}}
)


class FakeEmbedder:
    """Vectors that name their input: first byte, and what was dropped."""

    def embed_text(self, texts, *, drop_prob=0.0, seed=0):
        return np.array([[ord(text[0]), drop_prob] for text in texts], np.float32)

    def embed_pictures(self, pictures, *, drop_prob=0.0, seed=0):
        return np.stack(
            [pictures[:, 0, 0, 0], np.full(len(pictures), drop_prob)], axis=1
        ).astype(np.float32)


class FakeImages:
    """Four codes, the corners' red; counts the pictures it was given."""

    def __init__(self):
        self.num_pictures = 0

    def __call__(self, pictures):
        self.num_pictures += len(pictures)
        corners = pictures[:, ::15, ::15, 0]
        return corners.reshape(len(pictures), 4).astype(np.int32)


def _encode(text):
    return [4 + byte for byte in text.encode()]


def make_tools():
    return Tools(VOCAB, _encode, FakeImages(), FakeEmbedder())


def make_folder(root, count=6, bad=(), edit=True):
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        name = f"{index:04d}.png"
        Image.new("RGB", (16, 16), (index * 10, 0, 0)).save(root / name)
        if index in bad:
            (root / name).write_bytes(b"no picture")
        Image.new("RGB", (32, 16), (200, 0, 0)).save(root / f"edit{name}")
        row = {
            "file_name": name,
            "text": f"{chr(97 + index)} picture",
            "licence": "CC0",
            "questions": [{"question": "what?", "answer": f"{k}"} for k in range(3)],
            "boxes": [{"name": "left half", "box": [0, 0, 8, 16]}],
        }
        if edit:
            row["edit"] = {"instruction": "redden", "file_name": f"edit{name}"}
        lines.append(json.dumps(row))
    (root / imagefolder.METADATA).write_text("\n".join(lines))
    return root


def _load(root):
    (one,) = inputs.find(root, SourceConfig())
    rows = list(inputs.rows(one, SourceConfig(), Refusals()))
    refusals = Refusals()
    return tokenise.load(rows, PICTURE, refusals, tasks=CONFIG.tasks), refusals


def test_records_of_every_task_hold_what_their_row_says(tmp_path):
    rows, _ = _load(make_folder(tmp_path))
    tools = make_tools()
    made = tokenise.records(
        rows, tools, CONFIG, Refusals(), with_tasks=True, with_query=True
    )
    counts = {name: len(records) for name, records in made.items()}
    assert counts == {"pairs": 6, "caption": 6, "vqa": 12, "edit": 6, "layout": 6}
    pair = made["pairs"][2]
    text = np.array(_encode("c picture"), np.uint16)
    codes = VOCAB.image_ids(np.full(4, 20))
    np.testing.assert_array_equal(pair.tokens, [*text, VOCAB.break_id, *codes])
    np.testing.assert_array_equal(pair.modality, [0, 1])
    assert (pair.id, pair.licence, pair.task) == ("0002.png", "CC0", "pair")
    np.testing.assert_allclose(pair.query_text_vector, [ord("c"), 0.2], atol=1e-3)
    np.testing.assert_allclose(pair.image_vector, [20, 0])
    answer = made["vqa"][0]
    start, end = answer.target
    assert bytes((answer.tokens[start:end] - 4).tolist()).decode().strip() in "012"
    edited = made["edit"][0].document(VOCAB)
    assert [int(s.modality) for s in edited.segments] == [0, 1, 0, 1]
    np.testing.assert_array_equal(VOCAB.codes(edited.segments[3].ids), [200] * 4)


def test_a_picture_is_encoded_once_however_many_examples_show_it(tmp_path):
    rows, _ = _load(make_folder(tmp_path))
    tools = make_tools()
    tokenise.records(rows, tools, CONFIG, Refusals(), with_tasks=True, with_query=True)
    assert tools.encode_pictures.num_pictures == 12


def test_records_do_not_depend_on_the_rows_beside_them(tmp_path):
    rows, _ = _load(make_folder(tmp_path))
    flags = {"with_tasks": True, "with_query": False}

    def records(rows):
        return tokenise.records(rows, make_tools(), CONFIG, Refusals(), **flags)

    whole, parts = records(rows), [records([row]) for row in rows]
    for name, records in whole.items():
        alone = [record for part in parts for record in part[name]]
        for one, other in zip(records, alone, strict=True):
            assert one.id == other.id and one.content_hash == other.content_hash
            np.testing.assert_array_equal(one.tokens, other.tokens)


def test_bad_pictures_and_columns_refuse_their_row_and_are_counted(tmp_path):
    root = make_folder(tmp_path, bad=(1,))
    lines = [json.loads(line) for line in (root / imagefolder.METADATA).open()]
    lines[2]["questions"] = "what?"
    lines[3]["edit"]["file_name"] = "../outside.png"
    lines[4]["boxes"] = [{"name": "x", "box": [5, 5, 1, 1]}]
    (root / imagefolder.METADATA).write_text(
        "\n".join(json.dumps(line) for line in lines)
    )
    rows, refusals = _load(root)
    assert [row.id for row in rows] == ["0000.png", "0005.png"]
    assert refusals.to_json()["by_reason"] == {
        "malformed": 2,
        "outside-folder": 1,
        "unreadable": 1,
    }
    assert refusals.total == 6


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="no task 'ocr'"):
        TokeniseConfig(tasks={"ocr": {}})


def _documents(tmp_path, kinds):
    for number in range(3):
        picture = Image.new("RGB", (16, 16), (60 * number, 0, 0))
        picture.save(tmp_path / f"{number}.png")
    lines = [json.dumps({"parts": kind}) for kind in kinds]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    return _load(tmp_path)[0]


def _pairs(rows, tools, **flags):
    flags = {"with_tasks": True, "with_query": True, **flags}
    refusals = Refusals(accepted=len(rows))
    found = tokenise.records(rows, tools, CONFIG, refusals, **flags)
    return found[tokenise.PAIRS], refusals


def test_documents_have_the_vectors_of_their_text_and_the_mean_of_their_pictures(
    tmp_path,
):
    shown = [{"image": f"{number}.png"} for number in range(3)]
    kinds = [["a", shown[1], "b", shown[2]], ["text"], [shown[2]]]
    rows = _documents(tmp_path, kinds)
    (mixed, text, picture), _ = _pairs(rows, make_tools())
    assert [one.task for one in (mixed, text, picture)] == ["document"] * 3
    np.testing.assert_allclose(mixed.image_vector, [1, 0])
    mean = np.array([90, 0.2]) / np.linalg.norm([90, 0.2])
    np.testing.assert_allclose(mixed.query_image_vector, mean, atol=1e-3)
    np.testing.assert_allclose(picture.image_vector, [120, 0])
    assert len(text.image_vector) == len(picture.text_vector) == 0
    np.testing.assert_array_equal(mixed.modality, [0, 1, 0, 1])
    assert len({one.content_hash for one in (mixed, text, picture)}) == 3


def test_a_picture_of_several_rows_is_decoded_and_encoded_once(tmp_path):
    rows = _documents(tmp_path, [["a", {"image": "1.png"}], ["b", {"image": "1.png"}]])
    tools = make_tools()
    _pairs(rows, tools)
    assert tools.encode_pictures.num_pictures == 1


def test_given_vectors_are_taken_and_the_rest_is_embedded(tmp_path):
    class Given:
        def find(self, row):
            return {"image": np.array([0.6, 0.8])} if row.id == "0001.png" else {}

    rows, _ = _load(make_folder(tmp_path))
    tools = dataclasses.replace(make_tools(), given=Given())
    made, _ = _pairs(rows, tools)
    np.testing.assert_allclose(made[1].image_vector, [0.6, 0.8], atol=1e-3)
    assert len(made[1].text_vector) == len(made[1].query_image_vector) == 2
    np.testing.assert_allclose(made[2].image_vector, [20, 0])
    alone = dataclasses.replace(tools, embedder=None)
    made, _ = _pairs(rows, alone)
    assert [len(one.image_vector) for one in made] == [0, 2, 0, 0, 0, 0]


def test_given_vectors_of_another_space_are_refused(tmp_path):
    class Given:
        def find(self, row):
            return {"image": np.array([0.0, -1.0])}

    rows, _ = _load(make_folder(tmp_path, count=20, edit=False))
    tools = dataclasses.replace(make_tools(), given=Given())
    with pytest.raises(ValueError, match="give the bi-encoder that made them"):
        _pairs(rows, tools)
    made, _ = _pairs(rows[:5], tools)
    np.testing.assert_allclose(made[0].image_vector, [0, -1])


def test_the_hash_that_a_source_gives_is_kept_of_its_one_picture(tmp_path):
    folder = make_folder(tmp_path, count=4)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    given = [{"sha256": "AB" * 32}, {"md5": "0" * 32}, {"sha256": 7}, {}]
    added = [json.loads(line) | more for line, more in zip(lines, given, strict=True)]
    text_lines = [json.dumps(row) for row in added]
    (folder / "metadata.jsonl").write_text("\n".join(text_lines))
    rows, _ = _load(folder)
    flags = {"with_tasks": True, "with_query": False}
    found = tokenise.records(rows, make_tools(), CONFIG, Refusals(), **flags)
    hashes = [one.content_hash for one in found["pairs"]]
    assert hashes[:2] == ["sha256:" + "AB" * 32, "md5:" + "0" * 32]
    assert all(len(own) == 64 for own in hashes[2:])  # ours, of the pixels
    assert found["caption"][0].content_hash == hashes[0]
    assert ":" not in found["edit"][0].content_hash  # of two pictures


SPELT = "</s> <break> <sentinel:0> <s> <unk> <pad> <0x41> \u2581 <end>"


def test_control_tokens_spelt_out_stay_text_from_file_to_record(tmp_path):
    learnt = [SPELT] * 50 + ["a plain caption"]
    tokenizer = text.train(learnt, 400, tmp_path / "text.model")
    (tmp_path / "pictures").mkdir()
    spelt = [["spelt " + SPELT, {"image": "1.png"}], [SPELT, "\u202eabc e\u0301"]]
    rows = _documents(tmp_path / "pictures", spelt)
    vocab = dataclasses.replace(VOCAB, text_size=tokenizer.vocab_size)
    tools = dataclasses.replace(make_tools(), vocab=vocab, encode_text=tokenizer.encode)
    made, refusals = _pairs(rows, tools)
    assert refusals.refused == 0
    for record, wanted in zip(
        made, ("spelt " + SPELT, SPELT + "\n\u202eabc e\u0301"), strict=True
    ):
        segments = record.document(vocab).segments
        assert tokenizer.decode(segments[0].ids.tolist()) == wanted
        assert segments[0].ids.min() > vocab.UNK


@pytest.mark.parametrize("bad", [2, VOCAB.break_id, VOCAB.text_size])
def test_a_tokenizer_that_parses_control_tokens_is_caught_row_by_row(tmp_path, bad):
    def parsing(text):
        return [bad] if "b picture" in text else _encode(text)

    rows, _ = _load(make_folder(tmp_path))
    tools = dataclasses.replace(make_tools(), encode_text=parsing)
    made, refusals = _pairs(rows, tools)
    assert [one.id for one in made] == [f"{k:04d}.png" for k in (0, 2, 3, 4, 5)]
    assert refusals.to_json()["by_reason"] == {"control-id": 1}
    assert (refusals.accepted, refusals.total) == (5, 6)
