import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import compare, stages, studies
from configs import studies as configs

ROOT = pathlib.Path("run")
REPOSITORY = pathlib.Path(studies.__file__).parent.parent.parent


def _resolved(stage):
    """The config that a stage's command makes."""
    path, _, arg = stage.config.partition(":")
    module = importlib.import_module(f"configs.{pathlib.Path(path).stem}")
    config = module.get_config(arg)
    for name, value in stage.overrides.items():
        section = config
        *sections, field = name.split(".")
        for part in sections:
            section = section[part]
        with section.ignore_type():
            assert field in section, (stage.name, name)
            section[field] = value
    return config


@pytest.mark.parametrize("preset", ["quick", "debug"])
@pytest.mark.parametrize("data", ["", "pictures"])
def test_every_stage_is_a_command_whose_fields_exist(preset, data):
    config = configs.get_config(preset)
    config.data = data
    planned = studies.plan(config, ROOT)
    assert all(_resolved(stage) for stage in planned)
    judged = {"samples"} if data else set()
    assert {stage.name for stage in planned} > set(config.studies) - judged
    assert not {stage.name for stage in planned} & judged


def test_every_variant_of_every_study_names_fields_that_exist():
    config = configs.get_config()
    for stage in studies.plan(config, ROOT)[-len(config.studies) :]:
        study = _resolved(stage)
        section = study.evaluate if study.model else study.base
        assert sorted(study.order) == sorted(study.variants), stage.name
        for name, changes in study.variants.items():
            made = compare.overridden(section, changes)
            assert (made.to_dict() == section.to_dict()) == (not changes), name


def test_tokenizers_of_a_quickstart_are_not_trained_again():
    config = configs.get_config()
    config.parts_of = "other"
    planned = {stage.name: stage for stage in studies.plan(config, ROOT)}
    assert not {"tokenizer", "vqgan", "clip"} & set(planned)
    assert planned["shards"].overrides["embedder"] == "other/clip"
    assert planned["shards"].overrides["tokenise.pair_long_share"] == 0.0
    assert planned["tuning"].overrides["base.init_from"].startswith("run/models/base")


def test_an_unknown_study_is_refused_with_the_nearest():
    config = configs.get_config()
    config.studies = ("retreival",)
    with pytest.raises(ValueError, match="did you mean 'retrieval'"):
        studies.plan(config, ROOT)


def test_the_tables_are_named_and_a_missing_folder_is_refused(
    tmp_path, monkeypatch, capsys
):
    config = configs.get_config("debug")
    run = []
    monkeypatch.setattr(stages, "run", lambda planned, root: run.extend(planned))
    studies.run(config, str(tmp_path))
    found = storage.read_json(tmp_path / "done.json")
    assert found["sizes"] == str(tmp_path / "sizes" / "compare.txt")
    assert f"sizes: {found['sizes']}" in capsys.readouterr().out
    config.data = str(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent; name one"):
        studies.run(config, str(tmp_path))


@pytest.mark.slow
def test_a_folder_of_pictures_is_studied(tmp_path):
    command = [
        *(sys.executable, "-m", "cm3leon_jax.main"),
        *("--config", "configs/studies.py:debug", "--workdir", str(tmp_path)),
        "--config.data=examples/pictograms",
        "--config.studies=('retrieval',)",
    ]
    alone = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = (tmp_path / "retrieval" / "compare.txt").read_text()
    assert "validation_perplexity_image_2" in table and "none_fewer" in table
    assert len(list((tmp_path / "models").glob("*/seed-*/done.json"))) == 8
