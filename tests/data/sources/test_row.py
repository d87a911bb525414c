"""What every reader yields: captions, columns and documents, and what is refused."""

import pathlib

import pytest

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.blob import File
from cm3leon_jax.data.sources.row import Row, SourceConfig

PICTURE = File(pathlib.Path("a.png"))


def _row(parts=("a caption", PICTURE), **columns):
    return Row("a.png", pathlib.Path("root"), parts, columns)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * (rows.MAX_CAPTION_CHARS + 1), Reason.LONG_CAPTION),
        ("half a pair \ud800", Reason.NOT_UTF8),
        ("a\0b", Reason.NOT_UTF8),
    ],
)
def test_captions_that_no_shard_can_hold_are_refused_with_their_reason(text, reason):
    with pytest.raises(RefusedError) as refused:
        rows.clean(text)
    assert refused.value.reason == reason


def test_captions_are_stripped_and_otherwise_kept_as_they_are():
    assert (
        rows.clean("  </s> <break> caf\u00e9\u0301\n") == "</s> <break> caf\u00e9\u0301"
    )
    assert len(rows.clean("x" * rows.MAX_CAPTION_CHARS)) == rows.MAX_CAPTION_CHARS


def test_texts_that_follow_each_other_become_one_and_empty_ones_vanish():
    parts = rows.document(["one", " ", "two ", PICTURE, "", "three"])
    assert parts == ("one\ntwo", PICTURE, "three")
    with pytest.raises(RefusedError, match="neither text nor pictures"):
        rows.document([" ", ""])


@pytest.mark.parametrize("keep", [False, True])
def test_pictures_without_a_caption_are_kept_only_if_asked(keep):
    config = SourceConfig(keep_uncaptioned=keep)
    if keep:
        assert rows.pair(" ", PICTURE, config) == (PICTURE,)
    else:
        with pytest.raises(RefusedError) as refused:
            rows.pair(" ", PICTURE, config)
        assert refused.value.reason == Reason.EMPTY_CAPTION


def test_only_one_text_and_then_one_picture_is_a_pair():
    assert _row().is_pair
    for parts in ((PICTURE, "x"), ("x",), (PICTURE,), ("x", PICTURE, "y")):
        assert not _row(parts).is_pair


def test_provenance_is_read_from_any_spelling_and_must_be_text():
    row = _row(license=" CC0 ", URL="https://e.org/1", source=None)
    assert (row.licence, row.url, row.source) == ("CC0", "https://e.org/1", "")
    with pytest.raises(RefusedError, match="'source' is no string"):
        _ = _row(source=3).source


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"sha256": "ab" * 32, "md5": "cd" * 16}, "sha256:" + "ab" * 32),
        ({"md5": "cd" * 16}, "md5:" + "cd" * 16),
        ({"content_hash": "blake3:0123456789"}, "blake3:0123456789"),
        ({"sha256": 12345678}, ""),
        ({"sha256": "no hash"}, ""),
        ({}, ""),
    ],
)
def test_hashes_of_the_source_are_kept_with_their_kind(columns, kept):
    assert _row(**columns).content_hash == kept
