"""The rehearsal: the real step on made-up rows, its time beside the estimate."""

import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import rehearse
from configs import pretrain


def _config():
    config = pretrain.get_config("350m,debug,synthetic")
    config.num_cpu_devices = 0  # the tests' eight devices
    config.loader.update(batch_size=8, max_length=64)
    config.rehearsal.num_steps = 3
    return config


def test_run_measures_the_step_and_puts_the_estimate_beside_it(tmp_path):
    rehearse.run(_config(), str(tmp_path))
    found = storage.read_json(tmp_path / "rehearsal.json")
    measured = found["measured"]
    ratio = found["roofline"]["seconds"] / measured["seconds"]
    assert measured["estimate_over_measured"] == pytest.approx(ratio)
    rate = found["tokens_per_step"] / measured["seconds"]
    assert measured["tokens_per_second"] == pytest.approx(rate)
    assert 0 < measured["utilisation"] < 1
    assert measured["loss"] == pytest.approx(11.09, abs=0.2)  # log of 65,536 ids
    assert found["num_devices"] == 8
    assert found["device"]["source"] == "measured here"
    assert storage.read_json(tmp_path / "done.json") == measured


def test_rows_that_do_not_divide_are_refused_before_anything_is_compiled(tmp_path):
    config = _config()
    config.loader.batch_size = 12
    with pytest.raises(ValueError, match="the nearest is"):
        rehearse.run(config, str(tmp_path))
