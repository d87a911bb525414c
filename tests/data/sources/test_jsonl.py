import json

import pytest
from PIL import Image

from cm3leon_jax.data.refusals import Reason


def _folder(root, *lines):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(root / name)
    (root / "docs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return root


def _shape(row):
    return [part if isinstance(part, str) else part.path.name for part in row.parts]


WANTED = ["one", "a.png", "two\nthree", "b.png", "b.png"]


@pytest.mark.parametrize(
    "line",
    [
        {
            "parts": [
                {"text": " one "},
                {"image": "a.png"},
                "two",
                {"text": "three"},
                "",
                {"image": "b.png"},
                {"image": "b.png"},
            ]
        },
        {
            "texts": ["one", None, "two\nthree", None, None, None],
            "images": [None, "a.png", None, "b.png", "b.png", None],
        },
        {
            "text_list": ["one", "two", "three", " "],
            "image_info": [
                {"image_name": "a.png", "matched_text_index": 1},
                {"image_name": "b.png", "matched_text_index": 3},
                {"image_name": "b.png", "matched_text_index": 3},
            ],
        },
    ],
)
def test_interleaved_layouts_give_the_parts_in_order(tmp_path, read, line):
    root = _folder(tmp_path, {**line, "source": "web", "licence": "CC0"})
    (row,), _, _ = read(root, strict=True)
    assert _shape(row) == WANTED
    assert (row.id, row.source, row.licence) == ("docs:1", "web", "CC0")
    assert row.text == "one\ntwo\nthree" and not row.is_pair


def test_text_alone_and_pictures_alone_are_documents(tmp_path, read):
    root = _folder(tmp_path, {"parts": ["x"]}, {"parts": [{"image": "a.png"}]})
    rows, by_reason, _ = read(root)
    assert [_shape(row) for row in rows] == [["x"], ["a.png"]] and not by_reason


def test_a_text_and_a_picture_are_a_pair(tmp_path, read):
    (row,), _, _ = read(_folder(tmp_path, {"parts": ["x", {"image": "a.png"}]}))
    assert row.is_pair


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"parts": []}, Reason.EMPTY_CAPTION),
        ({"parts": [" ", ""]}, Reason.EMPTY_CAPTION),
        ({"parts": [{"image": "../x.png"}]}, Reason.OUTSIDE),
        ({"parts": [{"image": "https://e.org/x.png"}]}, Reason.REMOTE),
        ({"parts": [{"image": "c.png"}]}, Reason.MISSING),
        ({"parts": [{"image": 3}]}, Reason.MALFORMED),
        ({"parts": [{"video": "a.png"}]}, Reason.MALFORMED),
        ({"parts": 7}, Reason.MALFORMED),
        ({"parts": ["x" * 30_000]}, Reason.LONG_CAPTION),
        ({"parts": ["nul \0"]}, Reason.NOT_UTF8),
        ({"parts": [{"image": "a.png"}] * 257}, Reason.TOO_LONG),
        ({"texts": ["x"], "images": ["a.png"]}, Reason.MALFORMED),
        ({"texts": ["x"], "images": [None, "a.png"]}, Reason.MALFORMED),
        ({"text_list": ["x"], "image_info": [{}]}, Reason.MALFORMED),
        (
            {
                "text_list": ["x"],
                "image_info": [{"image_name": "a.png", "matched_text_index": 9}],
            },
            Reason.MALFORMED,
        ),
        ({"text": "x"}, Reason.MALFORMED),
    ],
)
def test_bad_documents_are_refused(tmp_path, read, line, reason):
    rows, by_reason, lines = read(_folder(tmp_path, line, {"parts": ["good"]}))
    assert [row.text for row in rows] == ["good"]
    assert by_reason == {reason.value: 1} and "docs.jsonl:1" in lines[0]
