import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from cm3leon_jax.jobs import quickstart
from configs import quickstart as configs

ROOT = pathlib.Path(quickstart.__file__).parent.parent.parent


@pytest.mark.parametrize("preset", configs.PRESETS)
@pytest.mark.parametrize("data", ["", "pictures"])
def test_every_stage_is_a_command_whose_fields_exist(preset, data):
    for stage in quickstart.plan(pathlib.Path("run"), preset, data):
        path, _, arg = stage.config.partition(":")
        module = importlib.import_module(f"configs.{pathlib.Path(path).stem}")
        config = module.get_config(arg)
        for name, value in stage.overrides.items():
            section = config
            *sections, field = name.split(".")
            for part in sections:
                section = section[part]
            assert isinstance(section[field], type(value)), (stage.name, name)


@pytest.mark.parametrize("preset", configs.PRESETS)
def test_stages_read_only_what_earlier_ones_made(preset):
    made = set()
    for stage in quickstart.plan(pathlib.Path("run"), preset, ""):
        for value in stage.overrides.values():
            if isinstance(value, str):
                assert pathlib.Path(value).parts[1] in made, stage.name
        made |= {stage.name, "requests.jsonl"}


def test_only_the_full_run_learns_to_enlarge_and_draws_with_it():
    found = {}
    for preset, data in (("quick", ""), ("full", ""), ("full", "pictures")):
        stages = quickstart.plan(pathlib.Path("run"), preset, data)
        found[preset, data] = [stage.name for stage in stages]
        drawn = next(stage for stage in stages if stage.name == "generate")
        enlarges = "super_resolution" in found[preset, data]
        assert ("upscaler" in drawn.overrides) == enlarges
        assert enlarges == (preset == "full" and not data)
    new = {"large_scenes", "super_resolution"}
    assert set(found["full", ""]) - set(found["quick", ""]) == new


def test_requests_ask_for_what_is_annotated(tmp_path):
    path = tmp_path / "requests.jsonl"
    quickstart.write_requests(path, ROOT / "examples" / "pictograms")
    asked = [json.loads(line) for line in path.read_text().splitlines()]
    assert {each["kind"] for each in asked} == {"draw", "caption"}
    pictures = [each["picture"] for each in asked if "picture" in each]
    assert all(pathlib.Path(picture).is_file() for picture in pictures)


def test_folder_that_is_missing_is_one_line(tmp_path):
    command = [
        *(sys.executable, "-m", "cm3leon_jax.main"),
        *(
            "--config",
            "configs/quickstart.py:debug",
            "--workdir",
            str(tmp_path / "run"),
        ),
        "--config.data=absent",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no folder absent")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_debug_run_goes_the_whole_path(tmp_path):
    command = [
        *(sys.executable, "-m", "cm3leon_jax.main"),
        *("--config", "configs/quickstart.py:debug", "--workdir", str(tmp_path)),
    ]
    # Without the eight devices that the tests pretend to have: a debug batch has four.
    alone = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["objects_guess"] > 0
    assert metrics["peak_memory_gb"] < 6
    assert metrics["enlarged_psnr_bicubic"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "Drawn from text" in page
    assert "Super-resolution" in page
    assert list((tmp_path / "generate" / "results").glob("*_large.png"))
    again = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "objects" in again.stdout
