"""The job's duty: parts kept as they are done, samples on disk, every number in one."""

import numpy as np
import pytest

from cm3leon_jax import api, storage
from cm3leon_jax.decoding.writer import Result
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.jobs import evaluate, folder
from cm3leon_jax.jobs import scenes as scenes_job
from cm3leon_jax.reports import samples
from cm3leon_jax.vocab import Vocab
from configs import evaluate as config_file
from configs import scenes as scenes_config

VOCAB = Vocab(text_size=64, image_size=16, control_size=64, num_sentinels=8)
VOCAB = Vocab(**{**VOCAB.to_json(), "codes_per_image": 16})


class FakeWriter:
    """Draws grey pictures and writes one word: the numbers are the evals' own tests."""

    vocab = VOCAB
    image_size = 64

    def __init__(self):
        self.num_orders = 0

    def encode_pictures(self, pictures):
        return np.zeros((len(pictures), 16), np.int32)

    def decode_pictures(self, codes):
        return np.full((len(codes), 64, 64, 3), 99, np.uint8)

    def check(self, order):
        return order

    def run(self, orders):
        self.num_orders += len(orders)
        grey = np.full((64, 64, 3), 99, np.uint8)
        return [
            Result(text="a") if order.wants_text else Result(picture=grey)
            for order in orders
        ]


class FakeBank:
    """One document, found by everything."""

    def find(self, vectors, count):
        return [[api.Found(0, 1.0, None)] for _ in vectors]

    def document(self, place):
        ids = VOCAB.image_ids(np.zeros(16, np.int32))
        return Document((Segment(Modality.IMAGE, ids),))


@pytest.fixture
def writer(monkeypatch):
    writer = FakeWriter()
    vectors = lambda things: np.ones((len(things), 2), np.float32)
    model = api.Model(writer, "abc", 16, FakeBank(), vectors, vectors)
    monkeypatch.setattr(api, "load", lambda path, **_: model)
    monkeypatch.setattr(evaluate, "_perplexity", lambda *_: {"perplexity_text": 2.0})
    return writer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    scenes_job.run(scenes_config.get_config("debug"), str(root))
    return root


def _config(world):
    config = config_file.get_config("debug")
    config.model = "a model"
    config.pictures.folder = str(world)
    return config


def test_numbers_of_all_parts_and_their_samples(world, writer, tmp_path):
    evaluate.run(_config(world), str(tmp_path))
    metrics = folder.summary(str(tmp_path))
    for key in ("perplexity_text", "objects", "captions_guess", "emblems_2", "edits"):
        assert key in metrics
    settings = storage.read_json(tmp_path / "settings.json")
    assert settings["checkpoint"] == "abc" and "jax" in settings["versions"]
    assert settings["scenes"]["seed"] == settings["drawing"]["top_k"] == 0
    (line,) = [
        one
        for one in (tmp_path / "results.txt").read_text().splitlines()
        if one.startswith("captions ")
    ]
    assert [float(x) for x in line.split()[1:]] == pytest.approx(
        [metrics["captions"], metrics["captions_guess"]], rel=1e-3
    )
    shown = samples.read(tmp_path)
    with_documents = [sample for sample in shown if sample.key == "emblems_2"]
    assert len(with_documents) == 4  # config.num_shown
    assert with_documents[0].neighbours[0].shape == (64, 64, 3)
    assert with_documents[0].is_read
    assert not next(s for s in shown if s.key == "captions").is_read


def test_a_part_that_is_done_is_not_run_again(world, writer, tmp_path):
    evaluate.run(_config(world), str(tmp_path))
    whole, before = folder.summary(str(tmp_path)), writer.num_orders
    (tmp_path / "done.json").unlink()
    (tmp_path / "parts" / "captions" / "numbers.json").unlink()
    evaluate.run(_config(world), str(tmp_path))
    assert folder.summary(str(tmp_path)) == whole
    assert writer.num_orders == before + 8  # config.scenes.num_cases captions


def test_an_unknown_part_is_refused_with_the_nearest(world, writer, tmp_path):
    config = _config(world)
    config.scenes.parts = ("object",)
    with pytest.raises(ValueError, match="did you mean 'objects'"):
        evaluate.run(config, str(tmp_path))


def test_too_few_pictures_of_ones_own_are_refused(world, writer, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    rows = []
    for number in range(20):
        name = f"{number:02d}.png"
        source = world / "train" / "0000" / f"{number:06d}.png"
        storage.write_bytes(own / name, source.read_bytes())
        rows.append(f'{{"file_name": "{name}", "text": "picture {number}"}}\n')
    storage.write_bytes(own / "metadata.jsonl", "".join(rows).encode())
    config = _config(own)
    config.splits = {"num_validation": 4, "num_test": 8}
    with pytest.raises(ValueError, match="8 held-out pictures, 100 are needed"):
        evaluate.run(config, str(tmp_path / "out"))
