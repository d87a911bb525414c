import json

import ml_collections
import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import folder
from configs import evaluate, retrieve


def _config(**fields):
    return ml_collections.ConfigDict({"job": "x", "model": {"width": 1} | fields})


def test_folder_of_the_same_config_continues(tmp_path):
    assert folder.start(_config(), str(tmp_path))
    assert folder.start(_config(), str(tmp_path))


def test_complete_folder_has_nothing_to_do(tmp_path):
    folder.start(_config(), str(tmp_path))
    folder.finish(str(tmp_path), {"loss": 1.0})
    assert not folder.start(_config(), str(tmp_path))
    assert folder.summary(str(tmp_path)) == {"loss": 1.0}


def test_folder_of_another_config_is_refused_naming_the_fields(tmp_path):
    folder.start(_config(), str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a").write_text("made")
    with pytest.raises(ValueError, match=r"config\.model\.width: 1 -> 2"):
        folder.start(_config(width=2), str(tmp_path))


def test_compare_names_added_and_removed_fields():
    lines = folder.compare({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}, "d": 4})
    assert lines == [
        "config.a: 1 -> (none)",
        "config.b.c: 2 -> 3",
        "config.d: (none) -> 4",
    ]


def test_nearest_name_is_suggested():
    assert "did you mean 'vqgan'?" in folder.nearest("vqgam", ["clip", "vqgan"])


def test_folder_in_which_nothing_was_made_takes_another_config(tmp_path):
    folder.start(_config(), str(tmp_path))
    (tmp_path / "error.log").write_text("a mistake in the first command")
    assert folder.start(_config(width=2), str(tmp_path))
    assert folder.start(_config(width=2), str(tmp_path))


def test_a_folder_of_a_program_that_lacked_a_field_is_gone_on_with(tmp_path):
    config = retrieve.get_config("debug")
    former = json.loads(json.dumps(config.to_dict()))
    del former["strategy"]["rule"]
    storage.write_json(tmp_path / "config.json", former)
    storage.write_json(tmp_path / "progress" / "a.json", {})
    assert folder.start(config, str(tmp_path))
    config.strategy.rule = "consensus"
    with pytest.raises(ValueError, match="rule: '' -> 'consensus'"):
        folder.start(config, str(tmp_path))


def test_an_evaluation_from_before_rules_and_mixed_samples_is_gone_on_with(tmp_path):
    config = evaluate.get_config("debug")
    former = json.loads(json.dumps(config.to_dict()))
    del former["mixed"], former["mesh"]
    for name in ("drawing", "writing", "guided", "contrastive", "varied"):
        del former[name]["rule"]
    storage.write_json(tmp_path / "config.json", former)
    storage.write_json(tmp_path / "parts" / "a.json", {})
    assert folder.start(config, str(tmp_path))
