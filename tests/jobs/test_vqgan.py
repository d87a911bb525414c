"""The job end to end on a few drawn pictures: output, sheet, restart, refusals."""

import importlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax import storage
from cm3leon_jax.jobs import vqgan
from cm3leon_jax.tokenizers import image


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for index in range(32):
        pixels = np.repeat(rng.integers(0, 256, (4, 64, 3), np.uint8), 16, axis=0)
        Image.fromarray(pixels).save(root / f"{index}.png")
        row = {"file_name": f"{index}.png", "text": "stripes"}
        row["edges"] = {"file_name": "1.png"}
        row["edit"] = {"file_name": "nowhere.png"}
        lines.append(json.dumps(row))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def _config(folder):
    config = importlib.import_module("configs.vqgan").get_config("debug")
    config.pictures.folder = str(folder)
    config.batch_size = 8
    config.loop.num_steps = 4
    return config


def test_job_exports_a_tokenizer_from_which_another_may_start(folder, tmp_path):
    workdir = tmp_path / "run"
    vqgan.run(_config(folder), str(workdir))
    summary = storage.read_json(workdir / "done.json")
    assert {"psnr", "ssim", "l1", "usage", "perplexity"} <= summary.keys()
    # Without weights of LPIPS and Inception: the stand-ins, under their own names.
    assert summary["gradient_pyramid"] > 0
    assert summary["frechet_blocks"] > 0
    assert not {"lpips", "fid"} & summary.keys()
    tokenizer = image.ImageTokenizer.load(workdir)
    assert tokenizer.encode(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 16)
    with Image.open(workdir / vqgan.SHEET) as sheet:
        assert sheet.size == (12 * 64 * 2, 2 * 64 * 2)
    refused = storage.read_json(workdir / "refusals.json")
    assert "nowhere.png" in json.dumps(refused)
    before = (workdir / "done.json").stat().st_mtime_ns
    vqgan.run(_config(folder), str(workdir))
    assert (workdir / "done.json").stat().st_mtime_ns == before
    config = _config(folder)
    config.start_from = str(workdir)
    config.optimizer.peak_lr = 1e-9  # it stays where it begins, its codebook too
    config.codebook.use_mean = False
    vqgan.run(config, str(tmp_path / "second"))
    after = storage.read_json(tmp_path / "second" / "done.json")
    for name in ("psnr", "usage", "perplexity"):
        assert after[name] == pytest.approx(summary[name], rel=1e-4), name
    config.model.codebook_size = 32
    with pytest.raises(ValueError, match="model.codebook_size: 64 -> 32"):
        vqgan.run(config, str(tmp_path / "third"))


def test_sheet_shows_originals_above_reconstructions():
    originals = np.full((13, 8, 8, 3), 10, np.uint8)
    png = vqgan.sheet(originals, originals + 100)
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (4 * 16, 12 * 16, 3)
    assert [pixels[row, 0, 0] for row in (0, 16, 32, 48)] == [10, 110, 10, 110]
    assert pixels[32, 16, 0] == 255  # the second row holds one picture


def test_training_that_goes_wrong_ends_with_its_reason_and_exports_nothing(
    folder, tmp_path
):
    config = _config(folder)
    config.guard.update(min_perplexity=1_000.0, after_steps=2)  # of 64 codes
    config.loop.save_every = 2
    with pytest.raises(FloatingPointError, match="step 3: collapse.*codebook"):
        vqgan.run(config, str(tmp_path / "run"))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["00000002"]  # from before
    assert not (tmp_path / "run" / image.EXPORT).exists()
    assert not (tmp_path / "run" / "done.json").exists()


def test_batches_that_devices_cannot_share_are_refused_before_pictures_are_read(
    folder, tmp_path
):
    config = _config(folder)
    config.batch_size, config.pictures.folder = 6, "nowhere"
    with pytest.raises(ValueError, match="multiple of the 8 devices; the nearest is 8"):
        vqgan.run(config, str(tmp_path / "run"))


def test_too_few_pictures_are_refused(folder, tmp_path):
    config = _config(folder)
    config.batch_size = 64
    with pytest.raises(ValueError, match="do not fill a batch of 64"):
        vqgan.run(config, str(tmp_path / "run"))


def test_boxes_join_the_loss_and_terms_without_their_weights_are_refused(
    folder, tmp_path
):
    lines = [json.loads(x) for x in (folder / "metadata.jsonl").read_text().split("\n")]
    for line in lines[1:]:
        line["boxes"] = [{"name": "face", "box": [0, 0, 32, 32]}]
    lines[1]["boxes"] = [{"name": "face", "box": [9, 0, 3]}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = _config(folder)
    config.splits.num_validation = 4
    config.objects.face_weight = 2.0
    vqgan.run(config, str(tmp_path / "run"))
    entries = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(entries[0])["crops"] > 0
    refused = storage.read_json(tmp_path / "run" / "refusals.json")
    assert "column boxes" in json.dumps(refused)
    config.features.update(inception="inception.pt", embedder="clip")
    with pytest.raises(ValueError, match="one of them"):
        vqgan.run(config, str(tmp_path / "other"))
    config.loss.lpips_weight = 1.0
    with pytest.raises(ValueError, match="needs LPIPS' weights"):
        vqgan.run(config, str(tmp_path / "other"))
