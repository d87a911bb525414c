import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import splits
from cm3leon_jax.data.refusals import Refusals


def _folder(root, count):
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": f"no {index}"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def _ids(root, split, config):
    return [row.id for row in splits.read(root, split, config, Refusals())]


def test_splits_are_disjoint_and_cover(tmp_path):
    config = splits.SplitConfig(num_validation=3, num_test=5)
    root = _folder(tmp_path, 20)
    parts = [_ids(root, name, config) for name in splits.names(root)]
    assert [len(part) for part in parts] == [12, 3, 5]
    assert len(set().union(*parts)) == 20


def test_added_row_moves_at_most_one_other_per_border(tmp_path):
    config = splits.SplitConfig(num_validation=3, num_test=5)
    root = _folder(tmp_path, 20)
    before = {name: set(_ids(root, name, config)) for name in ("test", "validation")}
    _folder(tmp_path, 21)
    for name, ids in before.items():
        assert len(ids - set(_ids(root, name, config))) <= 1


def test_folder_with_split_folders_is_taken_at_its_word(tmp_path):
    for name, count in (("train", 4), ("test", 2), ("bank", 1)):
        _folder(tmp_path / name, count)
    assert splits.names(tmp_path) == ("train", "test", "bank")
    assert len(_ids(tmp_path, "test", splits.SplitConfig())) == 2


def test_too_few_rows_are_refused_with_the_numbers(tmp_path):
    root = _folder(tmp_path, 8)
    with pytest.raises(ValueError, match="8 usable rows"):
        _ids(root, "train", splits.SplitConfig(num_validation=3, num_test=5))


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="known: train"):
        _ids(_folder(tmp_path, 3), "valid", splits.SplitConfig(1, 1))
