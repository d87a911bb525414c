"""Equal costs, overrides, intervals; one comparison trained for real."""

import json
import math
import pathlib

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import record, shards
from cm3leon_jax.jobs import compare, folder, train
from cm3leon_jax.vocab import Vocab
from configs import compare as config_file

VOCAB = Vocab(
    text_size=40, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = shards.SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")


def _record(index):
    rng = np.random.default_rng(index)
    codes = VOCAB.image_ids(rng.integers(0, 16, 4))
    near = np.array([30, VOCAB.break_id, *codes], np.uint16)
    ids = np.arange(2, dtype=np.int32)
    found = record.Neighbors(ids, ids * 1.0, ids > 0, (near, near))
    tokens = [*rng.integers(10, 20, 6), VOCAB.break_id, *codes]
    return record.Record(
        id=str(index),
        tokens=np.array(tokens, np.uint16),
        modality=np.array([0, 1], np.uint8),
        neighbors=found,
    )


@pytest.fixture
def config(tmp_path):
    written = {
        split: [shards.write_shard(tmp_path / "s/pairs", split, 0, map(_record, some))]
        for split, some in (("train", range(40)), ("validation", range(40, 50)))
    }
    shards.finish(tmp_path / "s/pairs", INFO, written)
    made = config_file.get_config("retrieval,debug")
    made.base.shards = str(tmp_path / "s")
    made.base.num_cpu_devices = 0
    made.base.mesh.update(data=4, fsdp=2)
    made.base.loader.update(batch_size=8, max_length=32)
    made.base.loop.update(num_steps=4, save_every=2, eval_every=2)
    return made


def test_equal_tokens_count_every_token_of_a_row(config):
    config.variants = {"short": (), "long": ("loader.max_length=64",)}
    config.order = ("short",)
    short, long = compare.make_plans(config)
    assert (short.num_steps, long.num_steps) == (4, 2)
    assert short.tokens == long.tokens == 4 * 8 * 32


def test_equal_flops_give_a_larger_model_fewer_steps(config):
    config.base.loop.num_steps = 200
    config.variants = {"a": (), "b": ("model.num_layers=6",)}
    config.equal = "flops"
    small, large = compare.make_plans(config)
    assert large.num_steps < small.num_steps == 200
    assert large.flops == pytest.approx(small.flops, rel=0.01)
    assert large.tokens < small.tokens


def test_equal_documents_are_fewer_steps_where_none_stands_in_front(config):
    config.base.loop.num_steps = 100
    plans = {plan.name: plan for plan in compare.make_plans(config)}
    assert plans["none"].num_steps == plans["base"].num_steps == 100
    # A record is 11 ids between two marks, and with its neighbours 23 to 24 more.
    base, fewer = plans["base"].num_steps, plans["none_fewer"].num_steps
    assert 25 < fewer < 75 < base and plans["none_fewer"].flops < plans["base"].flops


def test_a_variant_of_no_steps_is_the_model_that_it_would_start_from(
    config, tmp_path, monkeypatch
):
    asked = []

    def fake(section, workdir):
        asked.append(section.model)
        folder.finish(workdir, {"objects": len(asked) / 10})

    def never(one, workdir):
        folder.finish(workdir, {})
        (tmp_path / "c/runs/after/seed-3/metrics.jsonl").write_text("")
        assert one.loop.num_steps == 4 and one.init_from == "start/3"

    monkeypatch.setattr(compare.evaluate, "run", fake)
    monkeypatch.setattr(train, "run", never)
    config.base.init_from = "start/{seed}"
    config.evaluate.pictures.folder = "scenes"
    config.variants = {"after": (), "before": ("loop.num_steps=0",)}
    config.order, config.seeds, config.equal_in = ("after",), (3,), {}
    compare.run(config, str(tmp_path / "c"))
    assert asked == [str(tmp_path / "c/runs/after/seed-3"), "start/3"]


def test_of_models_that_are_there_the_evaluation_is_what_varies(
    config, tmp_path, monkeypatch
):
    asked = []

    def fake(section, workdir):
        asked.append((section.model, section.drawing.guidance))
        folder.finish(workdir, {"objects": section.drawing.guidance})

    monkeypatch.setattr(compare.evaluate, "run", fake)
    made = config_file.get_config("guidance,debug")
    made.base.num_cpu_devices = 0
    made.model, made.evaluate.pictures.folder = "runs/{seed}", "scenes"
    compare.run(made, str(tmp_path / "c"))
    assert ("runs/1", 3.0) in asked and len(asked) == 2 * len(made.variants)
    found = storage.read_json(tmp_path / "c" / "compare.json")
    rows = {row["variant"]: row for row in found["table"]}
    assert rows["guidance_3"]["difference"] == 2.0 and rows["plain"]["flops"] == 0


def test_studies_share_the_runs_of_one_folder(config, tmp_path, monkeypatch):
    made = []

    def fake(one, workdir):
        if folder.start(one, workdir):
            made.append(workdir)
            folder.finish(workdir, {"loss": 1.0})
            (tmp_path / workdir / "metrics.jsonl").write_text("")

    monkeypatch.setattr(train, "run", fake)
    config.runs, config.seeds = str(tmp_path / "models"), (0,)
    compare.run(config, str(tmp_path / "a"))
    assert len(made) == 4
    other = config_file.get_config("masking,debug")
    other.base, other.runs, other.seeds = config.base, config.runs, (0,)
    compare.run(other, str(tmp_path / "b"))
    assert [pathlib.Path(one).parent.name for one in made[4:]] == ["across"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("loader.neighbour_probs=(1.0,)",), "names no field"),
        (("loader",), "must be field=value"),
        (("nothing.here=1",), "names no field"),
    ],
)
def test_a_variant_that_changes_nothing_known_is_refused(config, changes, words):
    config.variants = {"bad": changes}
    with pytest.raises(ValueError, match=words):
        compare.make_plans(config)


def test_what_cannot_be_compared_is_refused(config):
    config.equal = "hours"
    with pytest.raises(ValueError, match="tokens, flops, steps, documents"):
        compare.make_plans(config)
    config.seeds = ()
    with pytest.raises(ValueError, match="variants and seeds"):
        compare.make_plans(config)


def test_overrides_leave_the_base_as_it_is(config):
    made = compare.overridden(config.base, ["loader.seed=7", "sets.pairs=2"])
    assert (made.loader.seed, made.sets.pairs) == (7, 2.0)
    assert config.base.loader.seed == 0


def test_runs_with_seeds_become_means_differences_intervals_and_curves(
    config, tmp_path, monkeypatch
):
    made = []

    def fake(one, workdir):
        number = len(one.loader.neighbor_probs)
        made.append((number, one.seed, one.loader.seed))
        folder.finish(workdir, {"loss": float(10 - number + one.seed)})
        entries = [
            {"step": 2, "loss": 1.0},
            {"step": 4, "validation_perplexity_text_0": 7.0 + one.seed},
        ]
        (pathlib.Path(workdir) / train.METRICS).write_text(
            "".join(f"{json.dumps(entry)}\n" for entry in entries)
        )

    monkeypatch.setattr(train, "run", fake)
    config.variants = {"none": ("loader.neighbor_probs=(1.0,)",), "two": ()}
    config.order, config.seeds, config.equal_in = ("none", "two"), (0, 2, 4), {}
    compare.run(config, str(tmp_path / "c"))
    assert made[:3] == [(1, 0, 0), (3, 0, 0), (1, 2, 2)]
    found = storage.read_json(tmp_path / "c" / "compare.json")
    rows = {row["variant"]: row for row in found["table"]}
    assert rows["none"]["mean"] == 11.0 and rows["two"]["mean"] == 9.0
    assert rows["two"]["half"] == pytest.approx(4.303 * 2 / math.sqrt(3))
    # Seed by seed the difference is always the same.
    assert (rows["two"]["difference"], rows["two"]["difference_half"]) == (-2.0, 0.0)
    none = found["variants"]["none"]
    curve = none["curves"][1]["validation_perplexity_text_0"]
    assert curve == [[none["flops"], 9.0]]
    text = (tmp_path / "c" / "compare.txt").read_text()
    assert "9 +- 4.97" in text and "-2 +- 0*" in text
    table = (tmp_path / "c" / "compare.md").read_text()
    assert "| loss | 11.000 ± 4.969 | 9.000 ± 4.969 (-2.000 ± 0.000 *) |" in table
    assert "| two | 4 | " in table and table.count("\n|") == 6
    page = (tmp_path / "c" / "compare.html").read_text()
    assert "<table" in page and "training FLOPs" in page


@pytest.mark.slow
def test_a_comparison_is_trained_and_goes_on_where_it_stopped(config, tmp_path):
    config.variants = {"none": ("loader.neighbor_probs=(1.0,)",), "two": ()}
    config.order, config.equal_in = ("none", "two"), {}
    compare.run(config, str(tmp_path / "c"))
    whole = storage.read_json(tmp_path / "c" / "done.json")
    assert len(whole["variants"]["two"]["runs"]) == 2
    (tmp_path / "c" / "done.json").unlink()
    compare.run(config, str(tmp_path / "c"))
    assert storage.read_json(tmp_path / "c" / "done.json") == whole
