"""Every row of the paper's table: public format, shard, training step, prompt, number."""

import inspect
import json

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import shards, tokenise
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig
from cm3leon_jax.data.tokenise import TokeniseConfig, Tools
from cm3leon_jax.decoding import engine
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order, Writer
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.evals import benchmark, crowd
from cm3leon_jax.jobs import scenes as scenes_job
from cm3leon_jax.jobs import train
from cm3leon_jax.models import transformer
from cm3leon_jax.tasks import table
from cm3leon_jax.train import metrics, state
from cm3leon_jax.vocab import Vocab
from configs import scenes as scenes_config
from configs import sft

VOCAB = Vocab(
    text_size=300, image_size=256, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = shards.SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")
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


def _made(loaded, name):
    return tokenise.records(
        loaded,
        Tools(VOCAB, _encode, _codes, None),
        TokeniseConfig({name: {}}),
        Refusals(),
        with_tasks=True,
        with_query=False,
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    for name, make in MAKERS.items():
        make(root / name)
    return {name: _rows(root / name, name) for name in table.PAPER}


def test_every_row_of_the_table_becomes_shards_from_its_public_format(rows):
    for name, loaded in rows.items():
        made = _made(loaded, name)
        assert len(made[name]) == COUNT, name
        has_target = table.get(name).METRIC in benchmark.METRICS
        assert all((one.target is not None) == has_target for one in made[name]), name
        num_pairs = 0 if loaded[0].row.is_for_tasks else COUNT
        assert len(made["pairs"]) == num_pairs, name


def _write(root, rows):
    for name, loaded in rows.items():
        made = _made(loaded, name)
        sets = {name: made[name]} | ({"pairs": made["pairs"]} if name == "coco" else {})
        for each, records in sets.items():
            written = {
                split: [shards.write_shard(root / each, split, 0, records)]
                for split in ("train", "validation")
            }
            shards.finish(root / each, INFO, written)


def _prompt(name, loaded):
    """A task's test-time prompt of a row, by the names of what it asks for."""
    row = loaded.task
    asked = (row.columns.get("questions") or [{}])[0].get("question")
    control = row.others.get(name, row.picture)
    given = {
        "picture": row.picture,
        "caption": row.text,
        "question": asked,
        "science": row.columns.get("science"),
        "before": row.picture,
        "instruction": row.columns.get("edit", {}).get("instruction"),
        "boxes": row.boxes,
        "control": control,
        "text": row.columns.get("writing"),
    }
    task = table.get(name)
    wanted = inspect.signature(task.prompt).parameters.values()
    names = [one.name for one in wanted if one.kind != one.KEYWORD_ONLY]
    return task.prompt(**{one: given[one] for one in names})


@pytest.mark.slow
def test_every_task_is_trained_asked_and_measured(rows, tmp_path):
    _write(tmp_path / "shards", rows)
    config = sft.get_config("350m,debug,paper")
    config.shards = str(tmp_path / "shards")
    config.num_cpu_devices = 0
    config.mesh.update(data=4, fsdp=2)
    config.model.max_length = 320
    config.loader.update(max_length=320, batch_size=8)
    config.loop.update(num_steps=6, save_every=6, eval_every=6)
    train.run(config, str(tmp_path / "run"))
    told = [
        e["loss"] for e in metrics.read(tmp_path / "run/metrics.jsonl") if "loss" in e
    ]
    assert told[-1] < told[0]
    announced = (tmp_path / "run" / "mixture.txt").read_text()
    assert all(f"\n{name} " in announced for name in table.PAPER)
    model, _ = state.load_model(str(tmp_path / "run"))
    writer = Writer(
        model=transformer.unstack(model),
        vocab=VOCAB,
        encode_text=_encode,
        decode_text=lambda ids: "".join(chr(max(32, i - 4)) for i in ids),
        num_text_pieces=260,
        encode_pictures=_codes,
        decode_pictures=lambda codes: (
            np.repeat(np.repeat(codes.reshape(-1, 2, 2, 1), 8, 1), 8, 2)
            .repeat(3, 3)
            .astype(np.uint8)
        ),
        image_size=SIZE,
        shapes=engine.Shapes(
            rows=(36,), prompt_lengths=(64, 288), steps=(12,), num_pieces=(4,)
        ),
    )
    sampling = Sampling(temperature=1.0)
    for name, loaded in rows.items():
        orders = [
            Order(_prompt(name, one), seed=n, sampling=sampling, max_text=8)
            for n, one in enumerate(loaded)
        ]
        results = writer.run(orders)
        if any(isinstance(part, Hole) for part in orders[0].parts):
            written = [benchmark.parsed(name, one.text) for one in results]
            cases = benchmark.cases(loaded, name)
            people = [case.people for case in cases]
            numbers = benchmark.score(name, people, written, [""] * len(people))
            assert numbers["num_scored"] == COUNT, name
        else:
            encoder = crowd.from_vectors(
                lambda shown: shown.reshape(len(shown), -1)[:, :9] / 255.0, "pixels"
            )
            drawn, real = (
                crowd.features([one for one in some], encoder)
                for some in (
                    [result.picture for result in results],
                    [one.task.picture for one in loaded],
                )
            )
            numbers = crowd.evaluate(drawn, real, encoder.name)
            assert "fid" not in numbers and "frechet_pixels" in numbers, name
        assert all(np.isfinite(value) for value in numbers.values()), name


def test_the_built_in_scenes_feed_every_task_that_they_can(tmp_path):
    """What only annotators draw or people argue is missing: the rest of the table runs."""
    made = scenes_config.get_config()
    made.world.update(sign_prob=0.5, num_emblems=24, num_measured_emblems=4)
    made.rows.update(num_train=40, num_validation=1, num_test=8, map_share=0.5)
    scenes_job.run(made, str(tmp_path))
    config, picture = SourceConfig(), PictureConfig(64)
    found = [
        row
        for one in inputs.find(tmp_path / "train", config)
        for row in inputs.rows(one, config, Refusals(), strict=True)
    ]
    tasks = {name: {} for name in table.PAPER}
    loaded = tokenise.load(found, picture, Refusals(), tasks=tasks)
    tools = Tools(VOCAB, _encode, lambda x: np.zeros((len(x), 4), np.int32), None)
    records = tokenise.records(
        loaded,
        tools,
        TokeniseConfig(tasks),
        Refusals(),
        with_tasks=True,
        with_query=False,
    )
    fed = {name for name in table.PAPER if records.get(name)}
    assert set(table.PAPER) - fed == {"hed", "pose", "depth", "normals", "scienceqa"}
