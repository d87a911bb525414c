"""Folders of programs that knew fewer fields are gone on with."""

import json

import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import resumption
from configs import pretrain


def _older(tmp_path, config):
    """A folder of a run that was begun before mixtures and rules of masking."""
    former = json.loads(json.dumps(config.to_dict()))
    del former["mixture"], former["loader"]["cm3"]["rule"]
    storage.write_json(tmp_path / "config.json", former)
    storage.write_json(tmp_path / "checkpoints" / "5" / "state.json", {})


def test_fields_that_are_off_are_as_if_they_had_been_there(tmp_path):
    config = pretrain.get_config("debug")
    _older(tmp_path, config)
    assert resumption.start(config, str(tmp_path))
    written = storage.read_json(tmp_path / "config.json")
    assert written["mixture"]["shares"] == "" and written["loader"]["cm3"]["rule"] == ""


@pytest.mark.parametrize(
    ("field", "named"),
    [("mixture.shares", "config.mixture: "), ("loader.cm3.rule", "cm3.rule: ")],
)
def test_fields_that_are_on_are_a_change(tmp_path, field, named):
    config = pretrain.get_config("debug")
    _older(tmp_path, config)
    config.update_from_flattened_dict({field: "text"})
    with pytest.raises(ValueError, match=named):
        resumption.start(config, str(tmp_path))
