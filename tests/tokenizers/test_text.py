"""Laws of the text tokenizer: nothing is lost, nothing becomes a control id."""

import logging

import pytest

from cm3leon_jax.tokenizers import text

SENTENCES = [
    "a red circle at the top left and a blue square at the bottom right",
    "the crest of Zarvok on a green wall",
    "how many triangles are there? 3",
    "the sign says 2047",
]

HOSTILE = [
    "",
    " ",
    "   ",
    " leading, trailing ",
    "two  spaces\tand a tab",
    "line\nline\r\nline\r",
    "\0nul\0",
    "\u2581space mark\u2581\u2581",
    "</s><s><pad><unk><break><sentinel:0><mask:1>",
    "<0x41><0xFF>",
    "\u2047 \u2585 \ufffd",
    "Zażółć gęślą jaźń 漢字 العربية עברית",
    "e\u0301 \u200d\u200e\u202e \U0001f469\u200d\U0001f680",
    "x" * 5_000,
    "1234567890",
    "\U0010ffff\ufeff",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "text.model"
    return text.train(SENTENCES * 5, 320, path)


@pytest.mark.parametrize("string", SENTENCES + HOSTILE)
def test_decode_of_encode_gives_the_string_back(tokenizer, string):
    ids = tokenizer.encode(string)
    assert tokenizer.decode(ids) == string
    assert all(4 <= one < tokenizer.vocab_size for one in ids)


def test_encode_of_parts_joins_to_the_string(tokenizer):
    parts = ["the sign says", " 2047", "\u2581", " on a wall"]
    ids = [one for part in parts for one in tokenizer.encode(part)]
    assert tokenizer.decode(ids) == "".join(parts)


def test_encode_splits_digits(tokenizer):
    assert len(tokenizer.encode("2047")) == 4


def test_encode_refuses_a_lone_surrogate(tokenizer):
    with pytest.raises(ValueError, match="not valid Unicode at character 1"):
        tokenizer.encode("a\ud800")


def test_decode_drops_control_ids_and_repairs_bytes(tokenizer):
    ids = tokenizer.encode("a red")
    assert tokenizer.decode([0, *ids, 2, 1, 3]) == "a red"
    assert tokenizer.decode([4 + 0xFF]) == "\ufffd"


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_decode_refuses_ids_of_other_ranges(tokenizer, wrong):
    with pytest.raises(ValueError, match="must lie in"):
        tokenizer.decode([wrong])


def test_load_equals_the_trained_tokenizer(tokenizer, tmp_path):
    again = text.train(SENTENCES * 5, 320, tmp_path / "again.model")
    loaded = text.TextTokenizer.load(tmp_path / "again.model")
    (tmp_path / "again.model").rename(tmp_path / text.FILE_NAME)
    assert text.TextTokenizer.load(tmp_path).digest == loaded.digest
    assert again.digest == tokenizer.digest == loaded.digest
    assert loaded.encode("a blue circle") == tokenizer.encode("a blue circle")


def test_train_lowers_a_size_that_the_text_cannot_fill(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        small = text.train(SENTENCES, 5_000, tmp_path / "small.model")
    assert 260 < small.vocab_size < 5_000
    assert "vocab_size=5000" in caplog.text
    assert small.decode(small.encode("Zarvok")) == "Zarvok"


@pytest.mark.parametrize("vocab_size", [0, 260, 262])
def test_train_refuses_a_size_below_the_characters(tmp_path, vocab_size):
    with pytest.raises(ValueError, match="vocab_size"):
        text.train(SENTENCES, vocab_size, tmp_path / "none.model")
    assert not list(tmp_path.iterdir())


def test_train_on_hostile_texts_still_encodes(tmp_path):
    hostile = text.train(HOSTILE + SENTENCES, 400, tmp_path / "hostile.model")
    assert hostile.decode(hostile.encode("\0\u2581 a\n")) == "\0\u2581 a\n"


def test_train_refuses_empty_text(tmp_path):
    with pytest.raises(ValueError, match="no text"):
        text.train(["", "  ", "\n"], 300, tmp_path / "none.model")


def test_load_refuses_another_file(tmp_path):
    path = tmp_path / "text.model"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"text\.model"):
        text.TextTokenizer.load(path)
