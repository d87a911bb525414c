"""Every row of the paper's table, from its public format to its records."""

import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import tokenise
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig
from cm3leon_jax.data.tokenise import TokeniseConfig, Tools
from cm3leon_jax.evals import benchmark
from cm3leon_jax.tasks import table
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=300, image_size=256, control_size=40, num_sentinels=20, codes_per_image=4
)
SIZE = 16
COUNT = 6  # rows of each task


def _save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((SIZE, SIZE, 3), 30 * level, np.uint8)
    picture[4:12, 4:12] = 250 - 30 * level
    Image.fromarray(picture).save(path)


def _json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _lines(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in items))


def _imagefolder(root):
    _lines(
        root / "metadata.jsonl",
        [{"file_name": f"{n}.png", "text": f"square {n}"} for n in range(COUNT)],
    )
    for n in range(COUNT):
        _save(root / f"{n}.png", n)


def _controlnet(root, kind):
    _json(root / "control.json", {"kind": kind})
    told = []
    for n in range(COUNT):
        for side in ("source", "target"):
            _save(root / side / f"{n}.png", n)
        one = {"source": f"source/{n}.png", "target": f"target/{n}.png"}
        told.append({**one, "prompt": f"square {n}"})
    _lines(root / "prompt.json", told)


def _edit(root):
    _json(root / "seeds.json", [["0000000", [str(n) for n in range(COUNT)]]])
    told = {"input": "a square", "edit": "invert it", "output": "a dark square"}
    _json(root / "0000000" / "prompt.json", told)
    for n in range(COUNT):
        for side in (0, 1):
            _save(root / "0000000" / f"{n}_{side}.jpg", n + side)


def _writing(root):
    words = {
        f"w{n}": {"utf8_string": f"W{n}", "bbox": [0, 0, 4, 4]} for n in range(COUNT)
    }
    imgs = {
        f"p{n}": {"id": f"p{n}", "file_name": f"train/p{n}.jpg"} for n in range(COUNT)
    }
    of = {f"p{n}": [f"w{n}"] for n in range(COUNT)}
    content = {"imgs": imgs, "anns": words, "imgToAnns": of}
    _json(root / "TextOCR_0.1_train.json", content)
    for n in range(COUNT):
        _save(root / "train_images" / f"p{n}.jpg", n)


def _coco(root, kind):
    images = [
        {"id": n, "file_name": f"{n}.jpg", "width": SIZE, "height": SIZE}
        for n in range(COUNT)
    ]
    told = [{"id": n, "image_id": n, "caption": f"square {n}"} for n in range(COUNT)]
    boxes = [
        {"image_id": n, "category_id": 1, "bbox": [4, 4, 8, 8]} for n in range(COUNT)
    ]
    content = {"images": images, "categories": [{"id": 1, "name": "square"}]}
    content["annotations"] = told if kind == "captions" else boxes
    _json(root / "annotations" / f"{kind}_train2017.json", content)
    for n in range(COUNT):
        _save(root / "train2017" / f"{n}.jpg", n)


def _flickr30k(root):
    lines = [f"{n}.jpg#0\tsquare {n}\n" for n in range(COUNT)]
    root.mkdir(parents=True)
    (root / "results_20130124.token").write_text("".join(lines))
    for n in range(COUNT):
        _save(root / "flickr30k-images" / f"{n}.jpg", n)


def _paragraph(root):
    told = [{"image_id": n, "paragraph": f"Square {n}. Grey."} for n in range(COUNT)]
    _json(root / "paragraphs_v1.json", told)
    for n in range(COUNT):
        _save(root / "VG_100K" / f"{n}.jpg", n)


def _narratives(root):
    told = [
        {"dataset_id": "mscoco_train2017", "image_id": str(n), "caption": f"I see {n}."}
        for n in range(COUNT)
    ]
    _lines(root / "coco_train_localized_narratives.jsonl", told)
    for n in range(COUNT):
        _save(root / "train2017" / f"{n:012d}.jpg", n)


def _vqa(root, prefix):
    questions = [
        {"question_id": n, "image_id": n, "question": "grey?"} for n in range(COUNT)
    ]
    answers = [
        {"question_id": n, "answers": [{"answer": "yes"}] * 10} for n in range(COUNT)
    ]
    stem = root / f"{prefix}OpenEnded_mscoco_train2014_questions.json"
    _json(stem, {"questions": questions})
    stem = root / f"{prefix}mscoco_train2014_annotations.json"
    _json(stem, {"annotations": answers})
    for n in range(COUNT):
        _save(root / "train2014" / f"COCO_train2014_{n:012d}.jpg", n)


def _vizwiz(root):
    told = [
        {"image": f"{n}.jpg", "question": "grey?", "answers": [{"answer": "yes"}] * 10}
        for n in range(COUNT)
    ]
    _json(root / "Annotations" / "train.json", told)
    for n in range(COUNT):
        _save(root / "train" / f"{n}.jpg", n)


def _scienceqa(root):
    problem = {
        "question": "Grey?",
        "choices": ["no", "yes"],
        "answer": 1,
        "hint": "",
        "solution": "Look.",
        "image": "image.png",
        "split": "train",
    }
    _json(root / "problems.json", {str(n): problem for n in range(COUNT)})
    for n in range(COUNT):
        _save(root / "train" / str(n) / "image.png", n)


MAKERS = {
    "edit": _edit,
    "writing": _writing,
    "layout": lambda root: _coco(root, "instances"),
    "edges": _imagefolder,
    "scribble": _imagefolder,
    "coco": lambda root: _coco(root, "captions"),
    "flickr30k": _flickr30k,
    "paragraph": _paragraph,
    "narratives": _narratives,
    "vqa2": lambda root: _vqa(root, "v2_"),
    "okvqa": lambda root: _vqa(root, ""),
    "vizwiz": _vizwiz,
    "scienceqa": _scienceqa,
} | {
    kind: lambda root, kind=kind: _controlnet(root, kind)
    for kind in ("segmentation", "hed", "pose", "depth", "normals")
}


def _encode(text):
    return [4 + byte for byte in text.encode()]


def _codes(pictures):
    return pictures[:, ::8, ::8, 0].reshape(len(pictures), 4).astype(np.int32)


def _rows(root, name):
    """The rows of a task's public format, loaded."""
    config = SourceConfig(reader=table.get(name).READERS[0])
    if (root / "control.json").exists():
        config = SourceConfig()
    found = [
        row
        for one in inputs.find(root, config)
        for row in inputs.rows(one, config, Refusals(), strict=True)
    ]
    return tokenise.load(
        found, PictureConfig(SIZE, min_side=1), Refusals(), tasks={name: {}}
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    for name, make in MAKERS.items():
        make(root / name)
    return {name: _rows(root / name, name) for name in table.PAPER}


def test_every_row_of_the_table_becomes_shards_from_its_public_format(rows):
    tools = Tools(VOCAB, _encode, _codes, None)
    for name, loaded in rows.items():
        made = tokenise.records(
            loaded,
            tools,
            TokeniseConfig({name: {}}),
            Refusals(),
            with_tasks=True,
            with_query=False,
        )
        assert len(made[name]) == COUNT, name
        has_target = table.get(name).METRIC in benchmark.METRICS
        assert all((one.target is not None) == has_target for one in made[name]), name
        num_pairs = 0 if loaded[0].row.is_for_tasks else COUNT
        assert len(made["pairs"]) == num_pairs, name
