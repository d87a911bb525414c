"""The job that draws the world into folders."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.jobs import scenes
from cm3leon_jax.scenes import drawing, judge
from cm3leon_jax.scenes.world import Scene, WorldConfig
from configs import scenes as config_file


def _files(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("scenes")
    scenes.run(config_file.get_config("debug"), str(workdir))
    return workdir


def _records(split_folder):
    return [json.loads(line) for line in open(split_folder / "metadata.jsonl")]


def test_every_file_that_a_row_names_is_the_picture_it_says(folder):
    world = WorldConfig(**json.loads((folder / "world.json").read_text()))
    for split in ("train", "validation", "test", "bank"):
        for record in _records(folder / split):
            with Image.open(folder / split / record["file_name"]) as image:
                picture = np.asarray(image)
            drawn = drawing.draw(Scene.from_json(record["scene"]), world)
            np.testing.assert_array_equal(picture, drawn)
            for name in {"edit", "segmentation", "edges", "scribble"} & record.keys():
                assert (folder / split / record[name]["file_name"]).exists()
            if "edit" in record:
                with Image.open(folder / split / record["edit"]["file_name"]) as image:
                    read = judge.read(np.asarray(image), world)
                assert read == Scene.from_json(record["edit"]["scene"])


def test_an_interrupted_job_continues_to_the_same_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "_PIECE", 25)
    write, written = scenes._write_row, []

    def stop_in_the_second_piece(*arguments):
        if len(written) == 40:
            raise KeyboardInterrupt
        written.append(arguments)
        return write(*arguments)

    config = config_file.get_config("debug")
    monkeypatch.setattr(scenes, "_write_row", stop_in_the_second_piece)
    with pytest.raises(KeyboardInterrupt):
        scenes.run(config, str(tmp_path))
    assert not (tmp_path / "train" / "metadata.jsonl").exists()
    monkeypatch.setattr(scenes, "_write_row", write)
    scenes.run(config, str(tmp_path))
    for split in ("train", "test"):
        ours, whole = _records(tmp_path / split), _records(folder / split)
        for record, expected in zip(ours, whole, strict=True):
            one = (tmp_path / split / record["file_name"]).read_bytes()
            assert one == (folder / split / expected["file_name"]).read_bytes()
            assert record["text"] == expected["text"]


def test_the_same_seed_writes_the_same_bytes(folder, tmp_path):
    scenes.run(config_file.get_config("debug"), str(tmp_path))
    assert _files(tmp_path) == _files(folder)
    done = pathlib.Path(tmp_path / "done.json").stat().st_mtime_ns
    scenes.run(config_file.get_config("debug"), str(tmp_path))  # nothing to do
    assert pathlib.Path(tmp_path / "done.json").stat().st_mtime_ns == done


def test_a_folder_of_another_world_is_refused(folder):
    config = config_file.get_config("debug")
    config.world.seed = 5
    with pytest.raises(ValueError, match="seed"):
        scenes.run(config, str(folder))
