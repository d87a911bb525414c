"""The tokenizer and bi-encoder jobs, on a folder of sixty drawn pictures."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.embedders import clip as embedder
from cm3leon_jax.jobs import clip as clip_job
from cm3leon_jax.jobs import folder
from cm3leon_jax.jobs import tokenizer as tokenizer_job
from cm3leon_jax.tokenizers import text
from configs import clip as clip_configs
from configs import tokenizer as tokenizer_configs

COLOURS = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (30, 50, 220)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rows = []
    for number, (colour, wall) in enumerate(
        itertools.islice(itertools.cycle(itertools.permutations(COLOURS, 2)), 60)
    ):
        picture = np.full((16, 16, 3), COLOURS[wall], np.uint8)
        picture[4:12, 4:12] = COLOURS[colour]
        Image.fromarray(picture).save(root / f"{number}.png")
        caption = f"a {colour} square on a {wall} wall, number {number}"
        questions = [{"question": "which wall?", "answer": wall}]
        row = {"file_name": f"{number}.png", "text": caption, "questions": questions}
        rows.append(json.dumps(row) + "\n")
    (root / "metadata.jsonl").write_text("".join(rows))
    return root


@pytest.fixture(scope="module")
def tokenizer(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tokenizer")
    config = tokenizer_configs.get_config("debug")
    config.pictures.folder = str(pictures)
    tokenizer_job.run(config, str(workdir))
    return workdir


def test_tokenizer_job_writes_a_model_and_what_came_out(tokenizer):
    found = text.TextTokenizer.load(tokenizer)
    summary = folder.summary(str(tokenizer))
    assert summary["digest"] == found.digest
    assert summary["vocab_size"] == found.vocab_size
    # Caption, question and answer of each row that is not held out, and templates.
    assert summary["texts"] >= 3 * 48


def test_strings_follow_names_into_lists():
    record = {"a": "x", "b": [{"c": "y"}, {"c": "z"}, {}], "d": 3}
    found = [list(tokenizer_job.strings(record, n)) for n in ("a", "b.c", "d", "e.f")]
    assert found == [["x"], ["y", "z"], [], []]


def test_clip_job_exports_an_embedder_and_stays_complete(pictures, tokenizer, tmp_path):
    config = clip_configs.get_config("debug")
    config.pictures.folder, config.tokenizer = str(pictures), str(tokenizer)
    config.model.image_size = 16
    config.model.patch_size = 8
    config.model.text.num_layers = config.model.vision.num_layers = 1
    clip_job.run(config, str(tmp_path))
    embed = embedder.ClipEmbedder.load(tmp_path)
    assert embed.embed_text(["a red square"]).shape == (1, 128)
    summary = folder.summary(str(tmp_path))
    assert 0 <= summary["finds_caption"] <= 1
    clip_job.run(config, str(tmp_path))  # complete: nothing happens
    assert embedder.ClipEmbedder.load(tmp_path).digest == embed.digest
