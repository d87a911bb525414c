"""Every config file resolves, with every documented argument, to plain values."""

import importlib
import json
import pathlib
import re

import ml_collections
import pytest

from configs import common

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem[0] != "_")
JOBS = [path for path in FILES if path.stem != "common"]


def _documented_args(path):
    """The arguments that a config's docstring shows, as `configs/name.py:arg`."""
    text = path.read_text()
    found = re.findall(rf"configs/{path.stem}\.py:([\w,=.\-:]+)", text)
    return [None, *sorted(set(found))]


@pytest.mark.parametrize(
    ("path", "arg"),
    [(path, arg) for path in JOBS for arg in _documented_args(path)],
    ids=lambda value: value.stem if isinstance(value, pathlib.Path) else str(value),
)
def test_config_is_plain_and_names_a_job(path, arg):
    module = importlib.import_module(f"configs.{path.stem}")
    config = module.get_config(arg)
    assert isinstance(config, ml_collections.ConfigDict)
    json.dumps(config.to_dict())
    job = importlib.import_module(f"cm3leon_jax.jobs.{config.job}")
    assert callable(job.run)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_config_docstring_shows_its_command(path):
    doc = importlib.import_module(f"configs.{path.stem}").__doc__
    assert f"configs/{path.stem}.py" in doc
    assert "Usage:" in doc


def test_parse_arg_reads_variants_flags_and_values():
    parsed = common.parse_arg(
        "7b,debug,steps=3", variants=("350m", "7b"), debug=False, steps=10
    )
    assert parsed == {"variant": "7b", "debug": True, "steps": 3}


@pytest.mark.parametrize("arg", ["8b", "debug=maybe", "steps=many", "stepz=1"])
def test_parse_arg_refuses_what_it_does_not_know(arg):
    with pytest.raises(ValueError, match="config argument"):
        common.parse_arg(arg, variants=("350m", "7b"), debug=False, steps=10)
