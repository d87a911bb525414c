"""Laws of the fast tokenizer file: the same ids as SentencePiece, marks by name."""

import json
import random

import numpy as np
import pytest
import tokenizers

from cm3leon_jax.convert import tokenizer
from cm3leon_jax.tokenizers import text
from cm3leon_jax.vocab import Vocab

CORPUS = [
    "a red circle at the top left and a blue triangle at the bottom right",
    "Question: what colour is it? Answer: red.",
    "aa aaa aaaa abab ababab bababa  two  spaces\tand tabs 12345",
    "日本語の文と русский текст, café, naïve; <break> </s> <image:3>",
]
HOSTILE = [
    "", " ", "  ", "\u2581", "a\u2581b", " \u2581 ", "\0", "a\0b", "\n\n", "\t a\r\n",
    "</s>", "<s><pad></s><unk>", "<break>", "<image:0><image:1>", "<sentinel:0>",
    "<0x41>", "<0xE2><0x96>", "<unused:299>", "<reserved:5>", "e\u0301", "\ufeffa",
    "👩‍👩‍👧", "\U0010ffff", "\u202eabc", "ab" * 300, "a" * 1_000, "\u0378", "Ａ",
]  # fmt: skip


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.model"
    text.train(CORPUS * 3, 380, path)
    return path


@pytest.fixture(scope="module")
def vocab(model_file):
    size = text.TextTokenizer.load(model_file).vocab_size
    return Vocab(size + 7, 30, 20, num_sentinels=9, codes_per_image=4)


@pytest.fixture
def fast(model_file, vocab):
    record = tokenizer.to_json(model_file.read_bytes(), vocab)
    return tokenizers.Tokenizer.from_str(json.dumps(record))


def _random_texts(number):
    rng = random.Random(0)
    words = " ".join(CORPUS).split()
    odd = [*" \t\n\0\u2581\xa0\u200b\u0301", *"aabbaab", "\U0001f600", "<break>", "é"]

    def anything():
        code = rng.randrange(0x110000 - 0x800)  # without the surrogates
        return chr(code if code < 0xD800 else code + 0x800)

    kinds = [
        lambda: rng.choice(words) + rng.choice(["", " "]),
        lambda: rng.choice(odd),
        lambda: chr(rng.randrange(0x20, 0x500)),
        anything,
    ]
    for index in range(number):
        kind = kinds[index % 4]
        yield "".join(kind() for _ in range(rng.randrange(30)))


def test_any_text_has_the_ids_of_sentencepiece_and_comes_back(fast, model_file):
    ours = text.TextTokenizer.load(model_file)
    fast.encode_special_tokens = True  # transformers' `split_special_tokens`
    for string in [*HOSTILE, *CORPUS, *_random_texts(3_000)]:
        ids = fast.encode(string, add_special_tokens=False).ids
        assert ids == ours.encode(string), repr(string)
        assert fast.decode(ids) == ours.decode(ids) == string


def test_image_codes_and_marks_are_found_by_name(fast, vocab):
    string = "</s>a red<break><image:0><image:29><end><sentinel:0><sentinel:8>"
    start = vocab.text_size
    marks = [start + 30, start, start + 29, start + 31, start + 32, start + 40]
    ids = fast.encode(string, add_special_tokens=False).ids
    assert ids[0] == 2 and ids[-6:] == marks
    text_ids = fast.encode("a red", add_special_tokens=False).ids
    assert ids[1:-6] == text_ids
    assert fast.encode("a red").ids == [2, *text_ids]
    assert fast.decode(ids, skip_special_tokens=True) == "a red"


def test_code_to_name_is_a_bijection_with_known_answers(fast, vocab):
    names = tokenizer.names(vocab)
    assert len(set(names.values())) == len(names) == 50
    for code in range(vocab.image_size):
        number = int(vocab.image_ids(np.int32(code)))
        assert names[number] == f"<image:{code}>"
        assert fast.token_to_id(f"<image:{code}>") == number
        assert int(vocab.codes(number)) == code
    small = Vocab(8, 2, 4, num_sentinels=1, codes_per_image=1)
    assert tokenizer.names(small) == {
        8: "<image:0>", 9: "<image:1>", 10: "<break>", 11: "<end>",
        12: "<sentinel:0>", 13: "<reserved:13>",
    }  # fmt: skip
    default = tokenizer.names(Vocab())
    assert default[56_320] == "<image:0>" and default[64_511] == "<image:8191>"
    assert default[64_512] == "<break>" and default[64_514] == "<sentinel:0>"


def test_every_id_of_the_model_has_a_name(fast, vocab):
    assert fast.get_vocab_size() == vocab.size
    assert {fast.token_to_id(fast.id_to_token(i)) for i in range(vocab.size)} == set(
        range(vocab.size)
    )


def test_a_wrong_map_is_seen(model_file, vocab, monkeypatch):
    right = tokenizer.names(vocab)
    # As a published port once had it: codes in the order of their names as strings.
    order = sorted(range(vocab.image_size), key=str)
    start = vocab.image_start
    wrong = right | {start + i: f"<image:{code}>" for i, code in enumerate(order)}
    monkeypatch.setattr(tokenizer, "names", lambda vocab: dict(wrong))
    record = tokenizer.to_json(model_file.read_bytes(), vocab)
    fast = tokenizers.Tokenizer.from_str(json.dumps(record))
    with pytest.raises(AssertionError):
        test_image_codes_and_marks_are_found_by_name(fast, vocab)


def test_a_vocabulary_without_room_is_refused(model_file):
    with pytest.raises(ValueError, match="pieces, the vocabulary room for 300"):
        tokenizer.to_json(
            model_file.read_bytes(),
            Vocab(300, 4, 12, num_sentinels=2, codes_per_image=4),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram"}, "model_type="),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalization_rule_name='nmt_nfkc'"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix=True"),
        ({"byte_fallback": False}, "byte_fallback=False"),
    ],
)
def test_another_kind_of_sentencepiece_is_refused(tmp_path, vocab, options, message):
    import sentencepiece

    fields = {
        "model_type": "bpe", "normalization_rule_name": "identity", "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "byte_fallback": True,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_prefix=str(tmp_path / "m"),
        vocab_size=330, hard_vocab_limit=False, minloglevel=2, **fields | options,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        tokenizer.to_json((tmp_path / "m.model").read_bytes(), vocab)


@pytest.mark.torch
def test_transformers_reads_the_file_and_keeps_strangers_marks_as_text(
    tmp_path, model_file, vocab
):
    transformers = pytest.importorskip("transformers")
    record = tokenizer.to_json(model_file.read_bytes(), vocab)
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    settings = json.dumps(tokenizer.config_json(80))
    (tmp_path / "tokenizer_config.json").write_text(settings)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = text.TextTokenizer.load(model_file)
    strings = [*HOSTILE, *_random_texts(400)]
    found = theirs(strings, add_special_tokens=False, split_special_tokens=True)
    for string, ids in zip(strings, found.input_ids, strict=True):
        assert ids == ours.encode(string), repr(string)
    assert theirs.batch_decode(found.input_ids) == strings
    assert theirs.encode("<break>", add_special_tokens=False) == [vocab.break_id]
    assert theirs.encode("a red")[0] == vocab.EOS
    assert len(theirs) == vocab.size
