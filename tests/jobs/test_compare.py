"""Equal costs, overrides, intervals; runs themselves are the training job's."""

import math

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
    with pytest.raises(ValueError, match="tokens, flops, steps"):
        compare.make_plans(config)
    config.seeds = ()
    with pytest.raises(ValueError, match="variants and seeds"):
        compare.make_plans(config)


def test_overrides_leave_the_base_as_it_is(config):
    made = compare.overridden(config.base, ["loader.seed=7", "sets.pairs=2"])
    assert (made.loader.seed, made.sets.pairs) == (7, 2.0)
    assert config.base.loader.seed == 0


def test_runs_with_seeds_become_means_differences_and_intervals(
    config, tmp_path, monkeypatch
):
    made = []

    def fake(one, workdir):
        made.append((len(one.loader.neighbor_probs), one.seed, one.loader.seed))
        loss = 10 - len(one.loader.neighbor_probs) + one.seed
        folder.finish(workdir, {"loss": float(loss)})

    monkeypatch.setattr(train, "run", fake)
    config.seeds = (0, 2, 4)
    compare.run(config, str(tmp_path / "c"))
    assert made[:4] == [(1, 0, 0), (2, 0, 0), (3, 0, 0), (1, 2, 2)]
    found = storage.read_json(tmp_path / "c" / "compare.json")
    rows = {row["variant"]: row for row in found["table"]}
    assert rows["none"]["mean"] == 11.0 and rows["two"]["mean"] == 9.0
    assert rows["two"]["half"] == pytest.approx(4.303 * 2 / math.sqrt(3))
    # Seed by seed the difference is always the same.
    assert (rows["two"]["difference"], rows["two"]["difference_half"]) == (-2.0, 0.0)
    text = (tmp_path / "c" / "compare.txt").read_text()
    assert "9 +- 4.97" in text and "-2 +- 0*" in text
    assert "<table" in (tmp_path / "c" / "compare.html").read_text()
