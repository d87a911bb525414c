import importlib.util
import json
import pathlib

import pytest

from cm3leon_jax.data import shards as shards_data
from cm3leon_jax.data import splits
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.data.tokenise import TokeniseConfig
from cm3leon_jax.jobs import shards

# The folder and the fake tools of the tests of the room that does the work.
_PATH = pathlib.Path(__file__).parents[1] / "data" / "test_tokenise.py"
_SPEC = importlib.util.spec_from_file_location("tokenise_fakes", _PATH)
fakes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fakes)

INFO = SetInfo(fakes.VOCAB, text_tokenizer="t", image_tokenizer="i", embedder="e")


def _job(root, pictures, rows_per_shard=4):
    return shards.Job(
        root=root,
        pictures=pictures,
        tools=fakes.make_tools(),
        info=INFO,
        splits=splits.SplitConfig(num_validation=2, num_test=3),
        picture_config=PictureConfig(image_size=16),
        tokenise=TokeniseConfig(tasks={"caption": {}, "vqa": {}, "edit": {}}),
        rows_per_shard=rows_per_shard,
        num_threads=2,
    )


def _files(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_folder_becomes_sets_and_every_row_is_counted(tmp_path):
    pictures = fakes.make_folder(tmp_path / "pictures", count=20, bad=(3, 7))
    summary = shards.write(_job(tmp_path / "shards", pictures))
    sizes = {
        name: {split: size["records"] for split, size in sets.items()}
        for name, sets in summary["sets"].items()
    }
    assert sum(sizes["pairs"].values()) == 18
    assert "test" not in sizes["caption"] and sizes["vqa"]["train"] >= 3 * 13
    counted = json.loads((tmp_path / "shards" / "refusals.json").read_text())
    assert (counted["accepted"], counted["refused"], counted["total"]) == (18, 2, 20)
    source = shards_data.open(tmp_path / "shards" / "pairs", "train")
    records = source.records(range(len(source)))
    assert len(records[0].query_text_vector) == 2
    assert len({record.id for record in records}) == sizes["pairs"]["train"]


def test_folders_of_splits_are_taken_at_their_word(tmp_path):
    for split, count in (("train", 5), ("validation", 2), ("test", 3), ("bank", 4)):
        fakes.make_folder(tmp_path / "scenes" / split, count)
    summary = shards.write(_job(tmp_path / "shards", tmp_path / "scenes"))
    pairs = {k: v["records"] for k, v in summary["sets"]["pairs"].items()}
    assert pairs == {"train": 5, "validation": 2, "test": 3, "bank": 4}
    assert set(summary["sets"]["edit"]) == {"train", "validation"}


def test_an_interrupted_job_goes_on_and_writes_the_same_bytes(tmp_path, monkeypatch):
    pictures = fakes.make_folder(tmp_path / "pictures", count=20)
    shards.write(_job(tmp_path / "whole", pictures))
    real, calls = shards._write_chunk, []

    def interrupted(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(shards, "_write_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shards.write(_job(tmp_path / "again", pictures))
    monkeypatch.setattr(shards, "_write_chunk", real)
    shards.write(_job(tmp_path / "again", pictures))
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")


def test_a_set_without_examples_is_left_out(tmp_path):
    pictures = fakes.make_folder(tmp_path / "pictures", count=12, edit=False)
    summary = shards.write(_job(tmp_path / "shards", pictures))
    assert set(summary["sets"]) == {"pairs", "caption", "vqa"}
