"""The model that is kept in the repository: small, whole, and as good as is said."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax import api, storage
from cm3leon_jax.scenes import judge, language, scores
from cm3leon_jax.scenes.world import QUICK
from cm3leon_jax.tokenizers import text
from cm3leon_jax.train import export

ROOT = pathlib.Path(__file__).parent.parent
DEMO = ROOT / "examples" / "demo"


@pytest.fixture(scope="module")
def model():
    return api.load(DEMO)


def _pictures():
    paths = sorted((DEMO / "pictures").glob("*.png"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def test_demo_weights_are_small_and_those_of_the_docs():
    files = list(DEMO.rglob("*.safetensors"))
    assert len(files) == 2
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    digest = storage.digest_file(DEMO / export.WEIGHTS_FILE)
    assert digest in (ROOT / "docs" / "results.md").read_text()


def test_demo_draws_what_its_requests_ask_for(model):
    lines = (DEMO / "requests.jsonl").read_text().splitlines()
    asked = [json.loads(line) for line in lines]
    texts = [one["text"] for one in asked if one["kind"] == "draw"]
    asks = [
        api.Ask("draw", text, seed=seed, sampling=api.Sampling(temperature=0.7))
        for text in texts
        for seed in range(4)
    ]
    drawn = np.stack([made.picture for made in model.fulfil(asks)])
    wanted = [language.parse_caption(ask.text, QUICK) for ask in asks]
    right = map(scores.objects, wanted, judge.read_all(drawn, QUICK))
    assert np.mean(list(right)) >= 0.9


def test_demo_describes_pictures_and_answers_about_them(model):
    pictures = _pictures()
    read = judge.read_all(np.stack(pictures), QUICK)
    asks = [
        api.Ask("caption", picture=picture, sampling=api.Sampling(temperature=0.0))
        for picture in pictures
    ]
    written = [made.text for made in model.fulfil(asks)]
    true = [language.caption(scene, QUICK) for scene in read]
    assert sum(a == b for a, b in zip(written, true, strict=True)) >= len(true) - 1
    asks = [
        api.Ask(
            "answer",
            f"what shape is the {thing.colour} object?",
            picture,
            sampling=api.Sampling(temperature=0.0),
        )
        for picture, scene in zip(pictures, read, strict=True)
        for thing in scene.things[:1]
    ]
    answers = [made.text for made in model.fulfil(asks)]
    shapes = [scene.things[0].shape for scene in read]
    assert sum(a == b for a, b in zip(answers, shapes, strict=True)) >= 4


def test_demo_with_another_tokenizer_is_refused(tmp_path):
    shutil.copytree(DEMO, tmp_path / "demo")
    words = ["a red circle at the top left", "0123456789"] * 5
    text.train(words, 320, tmp_path / "demo" / "text.model")
    with pytest.raises(ValueError, match="trained with another text_tokenizer"):
        api.load(tmp_path / "demo")
