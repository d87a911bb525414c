"""Ready-made neighbour lists: what is kept of them, what is counted, what is refused."""

import json

import numpy as np
import pytest

from cm3leon_jax.data.lists import Lists

NUMBERS = {f"bank/{number}": number for number in range(9)}


def _lists(tmp_path, *records):
    path = tmp_path / "near.jsonl"
    lines = (one if isinstance(one, str) else json.dumps(one) for one in records)
    path.write_text("\n".join(lines))
    return Lists(path, NUMBERS | {"own": 20})


def test_lists_keep_order_scores_and_how_they_were_found(tmp_path):
    record = {
        "id": "a",
        "neighbors": ["bank/3", "bank/1"],
        "scores": [0.5, 0.25],
        "by_image": [False, True],
    }
    found, unknown = _lists(tmp_path, record).find(["b", "a"])
    np.testing.assert_array_equal(found.ids, [[-1] * 4, [3, 1, -1, -1]])
    np.testing.assert_array_equal(found.scores[1], [0.5, 0.25, 0, 0])
    np.testing.assert_array_equal(found.by_image[1], [False, True, False, False])
    assert unknown == 0


def test_the_document_itself_and_what_the_bank_lacks_leave_room_for_others(tmp_path):
    names = ["own", "nowhere", "bank/0", "bank/0", *sorted(NUMBERS)]
    found, unknown = _lists(tmp_path, {"id": "own", "neighbors": names}).find(["own"])
    np.testing.assert_array_equal(found.ids, [[0, 1, 2, 3]])
    assert unknown == 1


def test_a_folder_of_lists_is_one_list(tmp_path):
    for name in ("a", "b"):
        line = json.dumps({"id": name, "neighbors": ["bank/5"]})
        (tmp_path / f"{name}.jsonl").write_text(line + "\n\n")
    found, _ = Lists(tmp_path, NUMBERS).find(["a", "b"])
    np.testing.assert_array_equal(found.ids[:, 0], [5, 5])


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"id": "a"}', '{"id": "a", "neighbors": ["b"], "scores": [1, 2]}'],
)
def test_malformed_lines_are_named_by_file_and_number(tmp_path, line):
    with pytest.raises(ValueError, match=r"near\.jsonl, line 2 is no neighbour list"):
        _lists(tmp_path, {"id": "x", "neighbors": []}, line)


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no neighbour lists"):
        Lists(tmp_path, NUMBERS)
