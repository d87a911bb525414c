"""Benchmarks on small public formats, the model a fake: what is asked, kept, resumed."""

import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax import api, storage
from cm3leon_jax.decoding.writer import Result, Writer
from cm3leon_jax.jobs import evaluate, folder
from cm3leon_jax.vocab import Vocab
from configs import benchmark as config_file

VOCAB = Vocab(
    text_size=300, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)


ORDERS = []


class FakeWriter(Writer):
    """Answers `red`; draws its seed's grey; keeps what it was asked."""

    def run(self, orders, report=lambda count: None):
        ORDERS.extend(orders)
        return [
            Result(text=" red.")
            if order.wants_text
            else Result(picture=np.full((16, 16, 3), 90 + order.seed % 90, np.uint8))
            for order in orders
        ]


def _embed(things):
    rows = [
        [1.0, float(np.asarray(one).mean() if not isinstance(one, str) else len(one))]
        for one in things
    ]
    vectors = np.array(rows, np.float32) / [1, 100]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def orders(monkeypatch):
    ORDERS.clear()
    writer = FakeWriter(
        model=None,
        vocab=VOCAB,
        encode_text=lambda text: [4 + byte for byte in text.encode()],
        decode_text=None,
        num_text_pieces=300,
        encode_pictures=lambda pictures: np.zeros((len(pictures), 4), np.int32),
        decode_pictures=None,
        image_size=16,
    )
    model = api.Model(writer, "abcdef", embed_text=_embed, embed_pictures=_embed)
    monkeypatch.setattr(api, "load", lambda path, **_: model)
    return ORDERS


def _vqa(root, split, count):
    (root / split).mkdir(parents=True, exist_ok=True)
    questions, annotations = [], []
    for n in range(count):
        Image.new("RGB", (20, 16)).save(root / split / f"COCO_{split}_{n:012d}.jpg")
        asked = {"question_id": n, "image_id": n, "question": f"colour {n}?"}
        answers = [{"answer": "red" if n % 2 else "blue"}] * 10
        questions.append(asked)
        told = {"question_id": n, "answers": answers, "answer_type": f"type {n % 2}"}
        annotations.append(told)
    stem = f"v2_{{}}_{split}_{{}}.json"
    path = root / stem.format("OpenEnded_mscoco", "questions")
    path.write_text(json.dumps({"questions": questions}))
    path = root / stem.format("mscoco", "annotations")
    path.write_text(json.dumps({"annotations": annotations}))


def _config(root, arg, **changes):
    config = config_file.get_config(arg)
    config.model = "a model"
    config.benchmark.folder = str(root)
    config.benchmark.update(changes)
    return config


def test_a_benchmark_of_questions_is_scored_by_group_with_examples(orders, tmp_path):
    _vqa(tmp_path / "vqa", "train2014", 6)
    _vqa(tmp_path / "vqa", "val2014", 10)
    config = _config(
        tmp_path / "vqa",
        "vqa2,debug,examples=2",
        split="validation",
        num_cases=10,
        group="answer_type",
    )
    evaluate.run(config, str(tmp_path / "out"))
    done = folder.summary(str(tmp_path / "out"))
    numbers = done["numbers"]
    assert numbers["vqa_accuracy"] == 0.5 and numbers["num_scored"] == 10
    assert numbers["vqa_accuracy/type 1"] == 1 and numbers["vqa_accuracy/type 0"] == 0
    assert len(orders) == 10 and all(len(order.documents) == 2 for order in orders)
    settings = done["settings"]
    for key in ("split", "seed", "sampling", "checkpoint", "resize", "versions"):
        assert key in settings
    answers = storage.read_json(tmp_path / "out" / "answers.json")
    assert answers[3] == {"question_id": 3, "answer": "red"}
    page = (tmp_path / "out" / "results.html").read_text()
    assert "By group" in page and "0.476" in page  # the paper's number beside ours


def test_a_file_of_one_split_alone_is_that_split(orders, tmp_path):
    _vqa(tmp_path / "vqa", "val2014", 5)
    config = _config(tmp_path / "vqa", "okvqa,debug", num_cases=5)
    for path in (tmp_path / "vqa").glob("v2_*"):
        path.rename(path.with_name(path.name.removeprefix("v2_")))
    evaluate.run(config, str(tmp_path / "out"))
    numbers = folder.summary(str(tmp_path / "out"))["numbers"]
    assert numbers["num_scored"] == 5 and numbers["vqa_accuracy"] == 0.4


def test_parts_that_are_done_are_not_asked_again(orders, tmp_path):
    _vqa(tmp_path / "vqa", "train2014", 2)
    _vqa(tmp_path / "vqa", "val2014", 10)
    config = _config(tmp_path / "vqa", "vqa2,debug", split="validation", num_cases=10)
    out = tmp_path / "out"
    evaluate.run(config, str(out))
    whole, before = folder.summary(str(out)), len(orders)
    (out / "done.json").unlink()
    (out / "parts" / "00001.jsonl").unlink()
    evaluate.run(config, str(out))
    assert folder.summary(str(out)) == whole and len(orders) == before + 4


def test_fewer_cases_than_asked_for_are_refused(orders, tmp_path):
    _vqa(tmp_path / "vqa", "train2014", 2)
    _vqa(tmp_path / "vqa", "val2014", 3)
    config = _config(tmp_path / "vqa", "vqa2,debug", split="validation", num_cases=10)
    with pytest.raises(ValueError, match="has 3 cases in split 'validation'"):
        evaluate.run(config, str(tmp_path / "out"))


def _captions(root, count=6):
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(count)]
        told = [
            {"id": 10 * n + k, "image_id": n, "caption": f"picture {n} " + "x" * k}
            for n in range(count)
            for k in range(2)
        ]
        for n in range(count):
            colour = (20 * n + 40,) * 3
            Image.new("RGB", (16, 20), colour).save(root / split / f"{n}.jpg")
        content = {"images": images, "annotations": told}
        path = root / "annotations" / f"captions_{split}.json"
        path.write_text(json.dumps(content))


def test_drawings_are_measured_under_the_judges_name(orders, tmp_path):
    _captions(tmp_path / "coco")
    config = _config(
        tmp_path / "coco",
        "coco_fid,debug",
        group_prompts=("a dark picture", "a bright picture, much"),
    )
    config.benchmark.sampling.guidance = 1.0
    evaluate.run(config, str(tmp_path / "out"))
    numbers = folder.summary(str(tmp_path / "out"))["numbers"]
    assert numbers["num_cases"] == 8 and "fid" not in numbers
    for key in ("frechet_model", "kid_model", "clip_score_model", "cmmd_model"):
        assert np.isfinite(numbers[key])
    shares = [v for k, v in numbers.items() if k.startswith("share_drawn/")]
    assert len(shares) == 2 and sum(shares) == pytest.approx(1)
    assert len(list((tmp_path / "out" / "drawn").glob("*.png"))) == 8
    assert len({order.seed for order in orders}) == 8


def test_the_best_of_several_needs_another_judge(orders, tmp_path):
    config = _config(tmp_path, "coco_fid,debug", num_samples=4)
    with pytest.raises(ValueError, match="may not judge"):
        evaluate.run(config, str(tmp_path / "out"))


def test_statistics_of_other_features_are_refused(orders, tmp_path):
    _captions(tmp_path / "coco")
    np.savez(tmp_path / "s.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    reference = str(tmp_path / "s.npz")
    config = _config(tmp_path / "coco", "coco_fid,debug", reference=reference)
    with pytest.raises(ValueError, match="features have width 2"):
        evaluate.run(config, str(tmp_path / "out"))


def test_a_task_of_drawing_is_no_benchmark_of_text(orders, tmp_path):
    config = _config(tmp_path, "vqa2,debug", task="edit")
    with pytest.raises(ValueError, match="measured by drawings"):
        evaluate.run(config, str(tmp_path / "out"))
