"""Files of requests: results with provenance, resumed, failures survived."""

import dataclasses
import io
import json
import random

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cm3leon_jax import api, sharding
from cm3leon_jax.decoding.writer import Result
from cm3leon_jax.jobs import folder, generate
from cm3leon_jax.models import super_resolution
from cm3leon_jax.reports import provenance
from cm3leon_jax.upscalers import rrdb
from cm3leon_jax.vocab import Vocab
from configs import generate as config_file


class FakeWriter:
    """Draws a picture of its seed; refuses nothing. The job's own duty is to be seen."""

    vocab = Vocab(codes_per_image=16)
    image_size = 8

    def __init__(self):
        self.num_orders = 0

    def run(self, orders, report=None):
        self.num_orders += len(orders)
        self.orders = list(orders)
        picture = np.full((8, 8, 3), 9, np.uint8)
        return [
            Result(text="words", picture=picture, turns=("words", picture))
            if order.turns
            else Result(text="words")
            if order.wants_text
            else Result(picture=np.full((8, 8, 3), order.seed % 256, np.uint8))
            for order in orders
        ]

    def check(self, order):
        return order.pictures


@pytest.fixture
def writer(monkeypatch):
    writer = FakeWriter()
    writer.asked = {}

    def load(path, **how):
        writer.asked |= how
        return api.Model(writer, "abc")

    monkeypatch.setattr(api, "load", load)
    return writer


def _config(tmp_path, lines):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "given.png")
    text = "\n".join(
        line if isinstance(line, str) else json.dumps(line) for line in lines
    )
    (tmp_path / "requests.jsonl").write_text(text)
    config = config_file.get_config("debug")
    config.model = "a model"
    config.requests = str(tmp_path / "requests.jsonl")
    return config


GOOD = [
    {"text": "a dog", "n": 2, "seed": 5},
    {"kind": "caption", "picture": "given.png", "sampling": {"temperature": 0}},
]
BAD = [
    "{not json",
    {"kind": "paint", "text": "a dog"},
    {"kind": "caption", "picture": "missing.png"},
    {"txet": "a dog"},
    {"text": "a dog", "sampling": {"top_p": 2.0}},
    {"text": "a dog", "retrieve": 2},
]


def test_requests_become_files_with_provenance_and_failures_are_listed(
    tmp_path, writer
):
    workdir = tmp_path / "out"
    generate.run(_config(tmp_path, [GOOD[0], *BAD, GOOD[1]]), str(workdir))
    assert folder.summary(str(workdir)) == {"num_results": 3, "num_failed": 6}
    made = [
        json.loads(x) for x in (workdir / "results.jsonl").read_text().split("\n")[:-1]
    ]
    assert [each["name"] for each in made] == ["000000_000", "000000_001", "000007_000"]
    assert [each["seed"] for each in made[:2]] == [5, 6]
    assert made[2]["text"] == "words"
    data = (workdir / "results" / made[1]["file_name"]).read_bytes()
    inside = provenance.read(workdir / "results" / made[1]["file_name"])
    with Image.open(io.BytesIO(data)) as picture:
        assert np.asarray(picture)[0, 0, 0] == 6
    assert inside["prompt"] == "a dog"
    assert inside["seed"] == 6
    assert inside["checkpoint"] == "abc"
    lines = (workdir / "failed.jsonl").read_text().splitlines()
    reasons = [json.loads(x)["reason"] for x in lines]
    for reason, part in zip(
        reasons,
        ("no request", "not one of draw", "missing.png", "'text'", "top_p", "bank"),
        strict=True,
    ):
        assert part in reason


def test_a_line_may_have_a_mask_turns_and_beams(tmp_path, writer):
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[0, 7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    lines = [
        {"kind": "infill", "picture": "given.png", "mask": "mask.png"},
        {"kind": "caption", "picture": "given.png", "num_beams": 3},
        {
            "kind": "continue",
            "parts": ["a dog", {"picture": "given.png"}],
            "turns": ["text", "picture"],
        },
        {"kind": "continue", "parts": [{"file": "given.png"}], "turns": ["text"]},
        {"kind": "continue", "parts": [{"picture": ""}], "turns": ["text"]},
    ]
    generate.run(_config(tmp_path, lines), str(tmp_path / "out"))
    filled, described, continued = writer.orders
    assert np.argwhere(filled.hidden_YX).tolist() == [[0, 3]]
    assert described.beams.num_beams == 3
    assert len(continued.parts) == 2
    failed = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    assert ["a part is a text" in line for line in failed] == [True, True]
    out = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    record = json.loads(out[2])
    assert record["written"] == ["words", {"picture": "000002_000_1.png"}]
    inside = provenance.read(tmp_path / "out" / "results" / "000002_000_1.png")
    assert inside["turns"] == ["text", "picture"]
    failed = (tmp_path / "out" / "failed.jsonl").read_text()
    assert "a part is a text or" in failed


@pytest.mark.parametrize("seed", range(4))
def test_no_line_stops_the_others(tmp_path, writer, seed):
    """Fields of every JSON type, the right one or not; the last line is a request."""
    rng = random.Random(seed)
    values = [None, True, -1, 0.5, 10**9, "", "a", "given.png", [], [1], ["a", 2], {}]
    values += [{"a": 1}, {"temperature": "x"}, [["a", 1]], [0, 0, 9, 9], "edges"]
    names = [field.name for field in dataclasses.fields(generate.Request)]
    lines = [
        {name: rng.choice(values) for name in rng.sample(names, rng.randint(1, 4))}
        for _ in range(200)
    ]
    lines = [line | {"n": 1} for line in lines]
    config = _config(tmp_path, [*lines, GOOD[1]])
    generate.run(config, str(tmp_path / "out"))
    found = folder.summary(str(tmp_path / "out"))
    assert found["num_results"] + found["num_failed"] == 201
    assert (tmp_path / "out" / "results" / "000200_000.json").exists()
    failed = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in failed]
    assert all(reason and "\n" not in reason for reason in reasons)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"text": 5}, "text=5 must be a string"),
        ({"text": "a", "n": 0}, "n=0 must be a whole number from 1"),
        ({"text": "a", "seed": 1.5}, "seed=1.5 must be a whole number from 0"),
        ({"text": "a", "choices": ["b", "c"]}, "'scienceqa'"),
    ],
)
def test_a_line_of_wrong_values_says_which(tmp_path, writer, line, what):
    with pytest.raises(ValueError, match=what):
        generate.run(_config(tmp_path, [line]), str(tmp_path / "out"))


def test_hosts_share_the_lines_and_the_first_writes_the_list(
    tmp_path, writer, monkeypatch
):
    config = _config(tmp_path, [*GOOD, BAD[0], *GOOD])
    generate.run(config, str(tmp_path / "alone"))
    monkeypatch.setenv("CM3LEON_HOSTS", "3")
    for index in (2, 1, 0):
        monkeypatch.setenv("CM3LEON_HOST", str(index))
        before = writer.num_orders
        generate.run(config, str(tmp_path / "out"))
        assert writer.num_orders > before
    for name in ("results.jsonl", "failed.jsonl", "results.html"):
        expected = (tmp_path / "alone" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected


def test_the_config_says_how_precise_and_on_which_devices(tmp_path, writer):
    config = _config(tmp_path, GOOD)
    config.precision, config.mesh.tensor = "int8", 2
    generate.run(config, str(tmp_path / "out"))
    assert writer.asked["precision"] == "int8"
    assert writer.asked["mesh"] == sharding.MeshConfig(data=-1, fsdp=1, tensor=2)


def test_a_folder_of_a_time_without_these_fields_is_gone_on_with(tmp_path, writer):
    config = _config(tmp_path, GOOD)
    generate.run(config, str(tmp_path / "out"))
    path = tmp_path / "out" / "config.json"
    former = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: former[k] for k in former.keys() - {"mesh", "precision"}})
    )
    before = writer.num_orders
    generate.run(config, str(tmp_path / "out"))
    assert writer.num_orders == before


def test_an_interrupted_job_continues(tmp_path, writer):
    config = _config(tmp_path, [{"text": "a dog", "n": 20}])
    workdir = tmp_path / "out"
    generate.run(config, str(workdir))
    whole = (workdir / "results.jsonl").read_bytes()
    (workdir / "done.json").unlink()
    for name in ("000000_003", "000000_017"):
        (workdir / "results" / f"{name}.json").unlink()
    before = writer.num_orders
    generate.run(config, str(workdir))
    assert writer.num_orders == before + 2
    assert (workdir / "results.jsonl").read_bytes() == whole


def test_nothing_fulfilled_is_an_error(tmp_path, writer):
    with pytest.raises(ValueError, match="none of 1 requests.*top_p"):
        generate.run(_config(tmp_path, [BAD[4]]), str(tmp_path / "out"))
    assert folder.summary(str(tmp_path / "out")) is None


def test_neither_prompt_nor_requests_is_an_error(tmp_path, writer):
    config = config_file.get_config()
    with pytest.raises(ValueError, match=r"set either config\.prompt"):
        generate.run(config, str(tmp_path / "out"))


def test_results_are_shown_on_a_page_and_again_by_the_same_command(
    tmp_path, writer, capsys
):
    config = _config(tmp_path, GOOD)
    generate.run(config, str(tmp_path / "run"))
    first = capsys.readouterr().out
    generate.run(config, str(tmp_path / "run"))
    assert capsys.readouterr().out == first
    assert "caption  given.png  ->  words" in first
    assert f"a dog  ->  {tmp_path / 'run' / 'results' / '000000_001.png'}" in first
    page = (tmp_path / "run" / "results.html").read_text()
    # Two drawings, and the picture that was given.
    assert page.count("<img") == 3
    assert ">words<" in page
    assert page.count(">a dog<") == 2


def test_pictures_are_kept_enlarged_too_if_an_upscaler_is_named(tmp_path, writer):
    shape = super_resolution.SuperResolutionConfig(2, 4, 1, 4, use_bicubic_base=True)
    model = super_resolution.SuperResolution(shape, rngs=nnx.Rngs(0))
    digest = rrdb.save(model, tmp_path / "upscaler")
    config = _config(tmp_path, GOOD)
    config.upscaler = str(tmp_path / "upscaler")
    generate.run(config, str(tmp_path / "out"))
    results = tmp_path / "out" / "results"
    drawn, large = (Image.open(results / f"000000_000{x}.png") for x in ("", "_large"))
    assert (drawn.size, large.size) == ((8, 8), (16, 16))
    # An untrained network on a bicubic base: the picture's one colour stays.
    assert np.asarray(large).max() == np.asarray(drawn).max() == 5
    record = json.loads((results / "000000_000.json").read_text())
    assert record["upscaler"] == digest
    inside = provenance.read(results / "000000_000_large.png")
    assert inside["upscaler"] == digest
    assert not list(results.glob("000001*_large.png"))  # a caption
