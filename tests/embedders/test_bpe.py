"""Laws of CLIP's text pieces: what splits, what is folded, what files must hold."""

import json
import random
import re

import pytest

from cm3leon_jax.embedders import bpe

HOSTILE = [
    "",
    " ",
    "\n\t  \u00a0",
    "A  Cat's   tail!!! 12345 ...",
    "they'll we'd I'M you'Re it's",
    "<|endoftext|>",
    "a <|startoftext|> b <|endoftext|> c",
    "<|ENDOFTEXT|> <|endoftext",
    "<break> <mask:0> </s> <unk>",
    "e\u0301 \u00e9 \ufb01 \u00c5 \u0130 \u1e9e \u03a3\u03c2",
    "\u0627\u0644\u0642\u0637 \u05d7\u05ea\u05d5\u05dc",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u732b1\u72ac2",
    "\x00\x01\x7f\x80 \ufeff\ufffd \u200b\u2028\u2029 x\u0085y",
    "&amp; &lt;b&gt; caf\u00e3\u00a9",
    "\u00bd \u2167 \u0664\u0665 \u00b2\u00b3",
    "word" * 200,
    "a</w> </w> \u0120hello Ġ",
]


def hostile_captions(count=300):
    """Those above and random ones of strange characters."""
    rng = random.Random(0)
    ranges = [(32, 126), (0, 31), (128, 591), (0x300, 0x36F), (0x370, 0x5FF)]
    ranges += [(0x2000, 0x206F), (0x4E00, 0x4E40), (0x1F300, 0x1F650), (0xE000, 0xE010)]

    def letter():
        low, high = rng.choice([*ranges[:1] * 8, *ranges])
        return chr(rng.randint(low, high))

    made = ["".join(letter() for _ in range(rng.randint(1, 90))) for _ in range(count)]
    return [*HOSTILE, *made]


@pytest.fixture(scope="module")
def clip_bpe(clip_files):
    return bpe.ClipBpe.load(clip_files)


def _pieces(clip_files, ids):
    vocab = json.loads((clip_files / "vocab.json").read_text())
    names = {place: piece for piece, place in vocab.items()}
    return [names[one] for one in ids]


def test_case_and_spaces_are_folded(clip_bpe):
    wanted = clip_bpe.encode("two cats on a sofa.")
    for text in ("Two CATS on a sofa.", "  two\n\ncats \u2003on a  sofa . "):
        assert clip_bpe.encode(text) == wanted


def test_words_end_digits_stand_alone_and_nothing_is_lost(clip_files, clip_bpe):
    text = "it's 1984, and they've won 2:0!"
    pieces = _pieces(clip_files, clip_bpe.encode(text))
    words = "".join(pieces).split("</w>")
    assert " ".join(words) == "it 's 1 9 8 4 , and they 've won 2 : 0 ! "


def test_composed_and_decomposed_letters_are_one(clip_bpe):
    assert clip_bpe.encode("e\u0301") == clip_bpe.encode("\u00e9")


def test_marks_that_a_text_spells_are_read_as_marks(clip_bpe):
    found = clip_bpe.encode("a <|endoftext|> b")
    assert found.count(clip_bpe.eos_id) == 1
    assert clip_bpe.eos_id == clip_bpe.vocab_size - 1
    assert clip_bpe.bos_id == clip_bpe.eos_id - 1


def test_any_string_is_encoded(clip_bpe):
    for text in [*hostile_captions(), "lone \ud800 surrogate"]:
        ids = clip_bpe.encode(text)
        assert all(0 <= one < clip_bpe.vocab_size for one in ids)


def test_tokenizer_json_gives_the_same_ids(clip_files, clip_bpe, tmp_path):
    vocab = json.loads((clip_files / "vocab.json").read_text())
    lines = (clip_files / "merges.txt").read_text().splitlines()[1:]
    for merges in (lines, [line.split(" ") for line in lines]):
        model = {"type": "BPE", "vocab": vocab, "merges": merges}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
        other = bpe.ClipBpe.load(tmp_path)
        assert other.digest == clip_bpe.digest
        assert other.encode("naïve Straße") == clip_bpe.encode("naïve Straße")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tokenizer files"),
        ({"vocab.json": "{}", "merges.txt": ""}, "startoftext"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "damaged"),
        ({"vocab.json": "{", "merges.txt": ""}, "not JSON"),
        ({"tokenizer.json": '{"model": {"type": "Unigram"}}'}, "no BPE"),
    ],
)
def test_damaged_files_are_refused(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        bpe.ClipBpe.load(tmp_path)


def test_a_merge_of_unknown_pieces_is_refused(clip_files):
    vocab = json.loads((clip_files / "vocab.json").read_text())
    with pytest.raises(ValueError, match=re.escape("('a', 'zzz')")):
        bpe.ClipBpe(vocab, [("a", "zzz")])


@pytest.mark.torch
def test_ids_equal_the_tokenizer_of_transformers(clip_files, clip_bpe):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(clip_files)
    captions = hostile_captions(600)
    wanted = theirs(captions, truncation=True, max_length=77)["input_ids"]
    for text, ids in zip(captions, wanted, strict=True):
        found = clip_bpe.encode(text)[:75]
        assert [clip_bpe.bos_id, *found, clip_bpe.eos_id] == ids, repr(text)
