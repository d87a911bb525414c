import json

import numpy as np
from PIL import Image

from cm3leon_jax.reports import run, samples
from cm3leon_jax.reports.samples import Sample

METRICS = {
    "objects": 0.75,
    "objects_guess": 0.05,
    "perplexity_text": 3.0,
    "seconds": 90.0,
    "peak_memory_gb": 1.5,
}
STAGES = {"vqgan": {"seconds": 90.0, "peak_memory_gb": 1.5}}


def test_report_shows_numbers_samples_and_curves(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"data": "", "preset": "quick"}))
    pixels = np.zeros((4, 4, 3), np.uint8)
    made = [
        Sample("objects", "a red ring", 1.0, "", "a red ring", True, drawn=pixels),
        Sample("answers", "how many?", 0.0, "2", "3", given=pixels),
    ]
    samples.write(tmp_path / "evaluate", made)
    (tmp_path / "vqgan").mkdir()
    lines = [json.dumps({"step": i, "reconstruction": 1 / i}) for i in (1, 2, 3)]
    (tmp_path / "vqgan" / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "super_resolution").mkdir()
    Image.fromarray(pixels).save(tmp_path / "super_resolution" / "enlarged.png")
    text = run.write(tmp_path, METRICS, STAGES).read_text()
    for shown in ("75 %", "0.750", "0.050", "a red ring", "how many?", "polyline"):
        assert shown in text
    assert "Drawn from text" in text
    assert "bicubic interpolation" in text
    assert "Edits by instruction" not in text
