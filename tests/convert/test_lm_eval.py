"""A converted model in lm-eval, where it is installed: it loads and it scores."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from cm3leon_jax.jobs import convert
from configs import convert as config_file

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.torch
def test_the_harness_loads_a_converted_model_and_knows_captions(tmp_path):
    pytest.importorskip("lm_eval")
    config = config_file.get_config("to_hf")
    config.source, config.target = str(ROOT / "examples/demo"), str(tmp_path / "hf")
    convert.run(config, str(tmp_path / "work"))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={tmp_path / 'hf'},dtype=float32"]
    command += ["--include_path", "examples/lm_eval", "--tasks", "word_order"]
    command += ["--output_path", str(tmp_path / "out")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    home = {"HF_HOME": str(tmp_path / "home")}
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | offline | home)
    (found,) = (tmp_path / "out").rglob("results_*.json")
    scores = json.loads(found.read_text())["results"]["word_order"]
    assert scores["acc,none"] > 0.9  # 0.25 is chance
