"""The job end to end on a few pictures: output, sheet, restart, refusals."""

import importlib
import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cm3leon_jax import storage
from cm3leon_jax.jobs import super_resolution as job
from cm3leon_jax.models import vqgan
from cm3leon_jax.scenes.world import WorldConfig
from cm3leon_jax.tokenizers import image
from cm3leon_jax.upscalers import rrdb
from tests import shapes


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for index in range(40):
        pixels = np.repeat(rng.integers(0, 256, (4, 64, 3), np.uint8), 16, axis=0)
        Image.fromarray(pixels).save(root / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": "stripes"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    storage.write_json(root / "world.json", WorldConfig().to_json())
    image.save(vqgan.Vqgan(shapes.VQGAN, rngs=nnx.Rngs(0)), tmp_path / "vqgan")
    return root


def _config(folder):
    config = importlib.import_module("configs.super_resolution").get_config("debug")
    config.pictures.update(folder=str(folder), image_size=64)
    config.tokenizer = str(folder.parent / "vqgan")
    config.splits.update(num_validation=4, num_test=4)
    config.crop_size = 8
    return config


def test_job_exports_an_upscaler_and_remembers_that_it_is_done(folder, tmp_path):
    workdir = tmp_path / "run"
    job.run(_config(folder), str(workdir))
    summary = storage.read_json(workdir / "done.json")
    names = {"psnr", "ssim", "gradient_pyramid", "frechet_blocks", "objects"}
    assert summary.keys() == names | {f"{name}_bicubic" for name in names}
    upscaler = rrdb.Upscaler.load(workdir)
    assert upscaler.enlarge(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, 64, 64, 3)
    with Image.open(workdir / job.SHEET) as sheet:
        assert sheet.size == (4 * 64, 64 * min(6, 4))
    config = _config(folder)
    config.start_from = str(workdir)
    config.model.num_blocks = 2
    with pytest.raises(ValueError, match="model.num_blocks: 1 -> 2"):
        job.run(config, str(tmp_path / "other"))
    before = (workdir / "done.json").stat().st_mtime_ns
    job.run(_config(folder), str(workdir))
    assert (workdir / "done.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures.image_size": 128}, "set it to 64"),
        ({"batch_size": 64}, "do not fill a batch of 64"),
        ({"crop_size": 32}, "at most 16"),
        ({"model.scale": 3}, "must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(folder, tmp_path, change, message):
    config = _config(folder)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        job.run(config, str(tmp_path / "run"))
