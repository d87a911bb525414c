"""Laws of Chameleon's vocabulary: the map of its ids, and text that stays text."""

import json

import numpy as np
import pytest

from cm3leon_jax.tokenizers import chameleon, text
from tests import chameleon_models

HOSTILE = [
    "", " ", "a red circle", "two  spaces\n", "Zażółć 漢字 \U0001f469\u200d\U0001f680",
    "</s><s><pad><unk>", "<racm3:break>IMGIMGAZ<eoss>", "<reserved08706><image>",
    "IMGIMGBCZ", "<0x41>",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return chameleon_models.tokenizer_json(tmp_path_factory.mktemp("pieces"))


@pytest.fixture(scope="module")
def tokenizer(data):
    return chameleon.ChameleonTokenizer(data)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("IMGIMGAZ", 0),
        ("IMGIMGJZ", 9),
        ("IMGIMGBAZ", 10),
        ("IMGIMGBCDZ", 123),
        ("IMGIMGEAJGZ", 4096),
        ("IMGIMGIBJBZ", 8191),
    ],
)
def test_a_codes_digits_stand_in_its_name_as_letters(name, code):
    spelt = "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code))
    others = {
        f"IMGIMG{''.join('ABCDEFGHIJ'[int(d)] for d in str(other))}Z": 9_000 + other
        for other in range(8_192)
        if other != code
    }
    assert name == f"IMGIMG{spelt}Z"
    found = chameleon.codes({"<s>": 0, name: 77, **others})
    assert found[code] == 77 and len(found) == 8_192


def test_codes_of_known_names_have_known_ids():
    ids = {"IMGIMGBZ": 7, "IMGIMGAZ": 9, "IMGIMGCZ": 8, "IMGIMG": 1, "xIMGIMGDZ": 2}
    np.testing.assert_array_equal(chameleon.codes(ids), [9, 7, 8])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"IMGIMGAZ": 1, "IMGIMGCZ": 2}, r"those of \[1\] are missing"),
        ({"IMGIMGBZ": 1, "IMGIMGABZ": 2}, "names image code 1 again"),
        ({"a": 1}, "of 0 image codes"),
    ],
)
def test_codes_that_are_no_whole_range_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        chameleon.codes(ids)


def test_our_ids_and_theirs_are_one_to_one_by_name(tokenizer):
    vocab = tokenizer.vocab(24, 16)
    theirs_V = tokenizer.theirs_V
    assert vocab.size == len(theirs_V) == tokenizer.size
    np.testing.assert_array_equal(np.sort(theirs_V), np.arange(vocab.size))
    names = {number: name for name, number in tokenizer.ids.items()}
    known = {
        vocab.BOS: "<s>", vocab.PAD: "<pad>", vocab.EOS: "</s>", vocab.UNK: "<unk>",
        vocab.break_id: "<reserved08706>", vocab.end_of_infill_id: "<reserved08708>",
        vocab.sentinel_id(0): "<reserved08194>", vocab.sentinel_id(3): "<reserved08197>",
        vocab.begin_image_id: "<racm3:break>", vocab.end_image_id: "<eoss>",
        vocab.image_ids(0): "IMGIMGAZ", vocab.image_ids(23): "IMGIMGCDZ",
    }  # fmt: skip
    assert {one: names[theirs_V[one]] for one in known} == known


def test_image_codes_are_permuted_and_not_contiguous_there(tokenizer):
    vocab = tokenizer.vocab(24, 16)
    theirs = tokenizer.theirs_V[vocab.image_ids(np.arange(24))]
    steps = np.diff(theirs)
    assert (steps < 0).any() and np.abs(np.diff(np.sort(theirs))).max() > 1


@pytest.mark.parametrize("string", HOSTILE)
def test_text_comes_back_and_is_never_a_mark(tokenizer, string):
    ids = tokenizer.encode(string)
    assert tokenizer.decode(ids) == string
    assert all(4 <= one < tokenizer.vocab_size for one in ids)
    assert tokenizer.vocab_size < tokenizer.vocab(24, 16).text_size


def test_our_ids_of_a_text_are_those_of_the_file(tokenizer, data):
    import tokenizers

    plain = tokenizers.Tokenizer.from_str(data.decode())
    string = "a red circle at the top left"
    found = plain.encode(string, add_special_tokens=False).ids
    ours = tokenizer.encode(string)
    np.testing.assert_array_equal(tokenizer.theirs_V[ours], found)
    marked = plain.encode("<eoss>a", add_special_tokens=False).ids
    assert marked[0] == tokenizer.ids["<eoss>"]  # there, a mark's name is the mark


def test_another_codebook_is_refused(tokenizer):
    with pytest.raises(ValueError, match="names 24 image codes, the image tokenizer"):
        tokenizer.vocab(32, 16)


def test_load_tells_the_kinds_of_files_apart(tmp_path, data):
    (tmp_path / "tokenizer.json").write_bytes(data)
    assert isinstance(text.load(tmp_path), chameleon.ChameleonTokenizer)
    text.train(["a red circle"] * 4, 275, tmp_path / "text.model")
    assert isinstance(text.load(tmp_path), text.TextTokenizer)
    assert (
        text.load(tmp_path / "tokenizer.json").digest
        == chameleon.ChameleonTokenizer(data).digest
    )


def _without(name, record):
    number = record["model"]["vocab"].pop(name)
    record["added_tokens"] = [
        one for one in record["added_tokens"] if one["id"] != number
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda record: _without("<eoss>", record), r"lacks \['<eoss>'\]"),
        (lambda record: _without("<reserved08706>", record), "lacks"),
        (lambda record: _without("IMGIMGAZ", record), r"those of \[0\] are missing"),
        (lambda record: record["model"].update(type="Unigram"), "type 'Unigram'"),
        (
            lambda record: record["model"]["vocab"].update(twice=5),
            "two names for one id",
        ),
        (lambda record: record.pop("added_tokens"), "no fast tokenizer file"),
    ],
)
def test_a_file_of_another_vocabulary_is_refused(data, spoil, message):
    record = json.loads(data)
    spoil(record)
    with pytest.raises(ValueError, match=message):
        chameleon.ChameleonTokenizer(json.dumps(record).encode())
