"""The job that takes networks of pixels in and out: one way, back, refusals."""

import importlib

import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.jobs import convert_pixels
from cm3leon_jax.models import super_resolution
from cm3leon_jax.upscalers import rrdb


def _run(tmp_path, direction, source, target):
    config = importlib.import_module("configs.convert_pixels").get_config(direction)
    config.update(source=str(tmp_path / source), target=str(tmp_path / target))
    convert_pixels.run(config, str(tmp_path / direction))


def test_network_goes_out_and_comes_back(tmp_path):
    shape = super_resolution.SuperResolutionConfig(2, 4, 1, 4)
    model = super_resolution.SuperResolution(shape, rngs=nnx.Rngs(0))
    rrdb.save(model, tmp_path / "ours")
    _run(tmp_path, "to_real_esrgan", "ours", "theirs.safetensors")
    _run(tmp_path, "from_real_esrgan", "theirs.safetensors", "back")
    _run(tmp_path, "from_real_esrgan", "theirs.safetensors", "back")  # done already
    one, two = (
        storage.load_arrays(tmp_path / name / rrdb.WEIGHTS_FILE)[0]
        for name in ("ours", "back")
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def test_taken_target_and_missing_source_are_refused(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        _run(tmp_path, "from_vqgan", "source", "taken")
    with pytest.raises(FileNotFoundError, match="no weights"):
        _run(tmp_path, "from_vqgan", "source", "target")
    assert not (tmp_path / "target").exists()
    config = importlib.import_module("configs.convert_pixels").get_config("to_janus")
    with pytest.raises(ValueError, match=r"no --config\.source"):
        convert_pixels.run(config, str(tmp_path / "run"))
