"""The training job on small shards: resumed, started from weights, refused."""

import json
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import record, shards
from cm3leon_jax.jobs import resumption, train
from cm3leon_jax.train import checkpoint, metrics, state
from cm3leon_jax.vocab import Vocab
from configs import pretrain, sft

VOCAB = Vocab(
    text_size=40, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = shards.SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")


def _record(index):
    rng = np.random.default_rng(index)
    codes = VOCAB.image_ids(rng.integers(0, 16, 4))
    text = rng.integers(10, 20, rng.integers(4, 9))
    near = np.array([30, VOCAB.break_id, *codes], np.uint16)
    ids = np.arange(2, dtype=np.int32)
    found = record.Neighbors(ids, ids * 1.0, ids > 0, (near, near))
    return record.Record(
        id=str(index),
        tokens=np.array([*text, VOCAB.break_id, *codes], np.uint16),
        modality=np.array([0, 1], np.uint8),
        target=(1, 3),
        neighbors=found,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    for name in ("pairs", "caption", "vqa", "edit", "layout", "segmentation", "infill"):
        written = {
            split: [shards.write_shard(root / name, split, 0, map(_record, numbers))]
            for split, numbers in (("train", range(40)), ("validation", range(40, 50)))
        }
        shards.finish(root / name, INFO, written)
    return root


def config(folder, arg="debug", module=pretrain, **loop):
    made = module.get_config(arg)
    made.shards = str(folder)
    made.num_cpu_devices = 0  # the tests' eight devices
    made.mesh.update(data=2, fsdp=4)
    made.loader.update(batch_size=8, max_length=32)
    made.loop.update(loop)
    return made


def test_run_leaves_a_model_its_vocabulary_and_numbers(folder, tmp_path, caplog):
    with jax.log_compiles():
        train.run(config(folder), str(tmp_path / "a"))
    compiled = [line for line in caplog.messages if "Finished XLA compilation" in line]
    assert len([line for line in compiled if "jit(step)" in line]) == 1
    done = storage.read_json(tmp_path / "a/done.json")
    assert {"validation_perplexity_text_0", "validation_perplexity_image_2"} <= {*done}
    losses = [
        e["loss"] for e in metrics.read(tmp_path / "a/metrics.jsonl") if "loss" in e
    ]
    assert losses[-1] < losses[0]
    model, context = state.load_model(str(tmp_path / "a"))
    assert shards.SetInfo.from_json(context["shards"]) == INFO
    assert model.config.vocab_size == VOCAB.size

    # Instruction tuning starts from these weights, at step 0.
    tuning = config(folder, module=sft)
    tuning.init_from = str(tmp_path / "a")
    tuning.optimizer.update(trained=("blocks/*",))
    train.run(tuning, str(tmp_path / "b"))
    tuned, _ = state.load_model(str(tmp_path / "b"))
    same = lambda name: np.array_equal(
        getattr(model, name)[...], getattr(tuned, name)[...]
    )
    assert same("token_embedding_VD")  # not among those trained
    assert not np.array_equal(model.blocks.up_DF[...], tuned.blocks.up_DF[...])

    other = config(folder)
    other.model.model_dim = 64
    other.init_from = str(tmp_path / "a")
    with pytest.raises(ValueError, match="use the model config"):
        train.run(other, str(tmp_path / "c"))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run that was never stopped; what it compiled is there for the runs after it."""
    cache = tmp_path_factory.mktemp("cache")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    workdir = tmp_path_factory.mktemp("run") / "whole"
    train.run(config(folder), str(workdir))
    yield workdir
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def interrupted(finished, tmp_path):
    """The same run as if it had been killed after step 5, its later files gone."""
    parts = tmp_path / "parts"
    shutil.copytree(finished, parts)
    (parts / "done.json").unlink()
    shutil.rmtree(parts / "checkpoints/00000010")
    return parts


def test_run_resumed_from_its_middle_gives_the_same_bytes(
    folder, finished, interrupted, monkeypatch
):
    # Nor does it make a first state, which would take as much memory again.
    monkeypatch.setattr(train, "_start", None)
    train.run(config(folder), str(interrupted))
    whole, parts = (checkpoint.read(x / "checkpoints") for x in (finished, interrupted))
    assert whole.step == parts.step == 10
    for name in whole.state:
        assert whole.state[name].tobytes() == parts.state[name].tobytes(), name
    assert json.dumps(whole.data) == json.dumps(parts.data)
    assert storage.read_json(finished / "done.json") == storage.read_json(
        interrupted / "done.json"
    )


def test_rows_longer_than_the_positions_are_refused(folder, tmp_path):
    wrong = config(folder)
    wrong.loader.max_length = 256
    with pytest.raises(ValueError, match="need as many positions"):
        train.run(wrong, str(tmp_path))


def test_change_between_stop_and_start_is_refused_unless_it_is_named(
    folder, interrupted
):
    changed = config(folder)
    changed.optimizer.peak_lr *= 2
    changed.loader.seed = 7  # another order of the data
    with pytest.raises(ValueError, match=r"config\.optimizer\.peak_lr: 0\.\d+ -> "):
        train.run(changed, str(interrupted))
    changed.resume.allow_change = "optimizer.*, loader"
    with pytest.raises(ValueError, match=r"allow_change=data"):
        train.run(changed, str(interrupted))
    changed.resume.allow_change = "optimizer.*, loader, data"
    train.run(changed, str(interrupted))
    lines = (interrupted / "changes.jsonl").read_text().splitlines()
    noted = [change for line in lines for change in json.loads(line)["changes"]]
    names = [change.partition(":")[0] for change in noted]
    assert names == ["config.loader.seed", "config.optimizer.peak_lr", "data"]
    kept = storage.read_json(interrupted / "config.json")
    assert kept["loader"]["seed"] == 7
    assert checkpoint.read(interrupted / "checkpoints").step == 10


class Still:
    """Batches that stay where they are told: only their place is looked at."""

    def __init__(self, fingerprint):
        self.state = {"fingerprint": fingerprint, "streams": {"0": {"next": 1}}}

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def test_other_version_of_the_code_is_refused_unless_it_is_named(tmp_path):
    place = lambda jax_version, fingerprint="a", allowed=(): resumption.Batches(
        Still(fingerprint),
        {"versions": {"jax": jax_version, "flax": "1"}},
        allowed=allowed,
        workdir=str(tmp_path),
    )
    before = place("1").get_state()
    place("1").set_state(before)
    with pytest.raises(ValueError, match=r"versions\.jax: '1' -> '2'.*=versions\.jax$"):
        place("2").set_state(before)
    with pytest.raises(ValueError, match=r"allow_change=versions\.jax,data$"):
        place("2", "b").set_state(before)
    assert not (tmp_path / "changes.jsonl").exists()
    later = place("2", "b", allowed=("versions", "data"))
    later.set_state(before)
    assert later.get_state()["fingerprint"] == "b"
    (line,) = (tmp_path / "changes.jsonl").read_text().splitlines()
    assert json.loads(line)["changes"] == ["versions.jax: '1' -> '2'", "data: a -> b"]
    # A program that wrote down nothing of itself is gone on with.
    place("2").set_state({"fingerprint": "a", "streams": {"0": {"next": 1}}})


def test_what_a_person_sees_may_change_and_older_folders_go_on(
    folder, finished, tmp_path
):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = storage.read_json(tmp_path / "config.json")
    for section in (
        "watch",
        "resume",
        "saving",
        "guard",
        "prefetch",
    ):  # as before there were such
        del before[section]
    storage.write_json(tmp_path / "config.json", before)
    shown = config(folder)
    shown.watch.profile_first_step = 3
    shown.prefetch.num_workers = 2
    train.run(shown, str(tmp_path))  # complete: nothing to do, nothing refused
    assert not (tmp_path / "changes.jsonl").exists()
    shown.guard.action = "stop"
    with pytest.raises(ValueError, match=r"config\.guard\.action: 'none' -> 'stop'"):
        train.run(shown, str(tmp_path))


def test_second_writer_is_refused_at_once_by_name_and_a_dead_one_is_not(
    folder, interrupted
):
    code = (
        "import sys, time; from cm3leon_jax.train import lock\n"
        "with lock.hold(sys.argv[1]):\n  print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(interrupted)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        start = time.monotonic()
        with pytest.raises(ValueError, match=f"process {holder.pid} on"):
            train.run(config(folder), str(interrupted))
        assert time.monotonic() - start < 1
        holder.kill()
    train.run(config(folder), str(interrupted))
    assert not (interrupted / "writer.lock").exists()


def test_best_by_a_metric_needs_steps_that_are_saved_and_evaluated(folder, tmp_path):
    wrong = config(folder, save_every=5, eval_every=4)
    wrong.saving.best_metric = "validation_perplexity_image_0"
    with pytest.raises(ValueError, match="multiple of loop.save_every=5"):
        train.run(wrong, str(tmp_path))


@pytest.mark.slow
def test_guarded_run_equals_one_that_is_not(folder, finished, tmp_path):
    guarded = config(folder)
    guarded.guard.update(action="skip", spike_factor=50.0)
    train.run(guarded, str(tmp_path / "guarded"))
    plain, held = (
        checkpoint.read(x / "checkpoints", prefix="model/").state
        for x in (finished, tmp_path / "guarded")
    )
    # Two programs round differently, and Adam divides small gradients by their own size:
    # far less than one update.
    for name in plain:
        np.testing.assert_allclose(plain[name], held[name], rtol=1e-5, atol=2e-5)
