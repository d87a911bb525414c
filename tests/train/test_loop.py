"""An interrupted run equals one that never stopped."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.train import checkpoint, loop, metrics, watch


class Counting:
    """Batches that are their own index: enough to see one skipped or repeated."""

    def __init__(self):
        self.index = 0

    def __next__(self):
        self.index += 1
        return np.float32(self.index)

    def get_state(self):
        return {"index": self.index}

    def set_state(self, state):
        self.index = state["index"]


@jax.jit
def step(state, batch):
    total = 1.5 * state["total"] + batch
    return {"total": total}, {"loss": total, "batch": batch, "tokens": jnp.ones(())}


def train(folder, num_steps=9, step=step, **options):
    writer = metrics.Writer(folder / "metrics.jsonl")
    checkpointer = checkpoint.Checkpointer(folder / "checkpoints")
    options = {"log_every": 1, "save_every": 4} | options
    start = {"total": jnp.zeros(())}
    return loop.run(
        start,
        step,
        Counting(),
        num_steps=num_steps,
        checkpointer=checkpointer,
        writer=writer,
        **options,
    )


def trace(folder):
    entries = metrics.read(folder / "metrics.jsonl")
    timed = ("steps_per_second", "tokens_per_second", "data_share", "save_share")
    return [{k: v for k, v in entry.items() if k not in timed} for entry in entries]


def interrupt_at(number, at):
    def stopping(state, batch):
        if batch == at:
            os.kill(os.getpid(), number)
        return step(state, batch)

    return stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_saves_exits_and_continues_identically(tmp_path, number):
    whole = train(tmp_path / "whole")
    parts = tmp_path / "parts"
    with pytest.raises(SystemExit) as stop:
        train(parts, step=interrupt_at(number, at=6))
    assert stop.value.code == 128 + number
    assert checkpoint.read(parts / "checkpoints").step == 6
    resumed = train(parts)
    assert resumed["total"] == whole["total"]
    assert trace(parts) == trace(tmp_path / "whole")


@pytest.mark.parametrize("log_every", [1, 3])
def test_killed_run_repeats_only_the_steps_after_its_checkpoint(tmp_path, log_every):
    whole = train(tmp_path / "whole", log_every=log_every)

    def dying(state, batch):
        if batch == 7:
            raise MemoryError
        return step(state, batch)

    with pytest.raises(MemoryError):
        train(tmp_path / "parts", step=dying, log_every=log_every)
    assert checkpoint.read(tmp_path / "parts/checkpoints").step == 4
    again = train(tmp_path / "parts", log_every=log_every)
    assert again["total"] == whole["total"]
    assert trace(tmp_path / "parts") == trace(tmp_path / "whole")


def test_finished_run_does_nothing_when_called_again(tmp_path):
    train(tmp_path)
    before = trace(tmp_path)
    train(tmp_path, step=None)
    assert trace(tmp_path) == before


def test_evaluation_changes_no_step(tmp_path):
    train(tmp_path / "without")
    seen = []
    evaluate = lambda state: seen.append(1) or {"validation": state["total"]}
    train(tmp_path / "with", evaluate=evaluate, eval_every=4)
    assert len(seen) == 3  # steps 4 and 8, and the last
    steps = [entry for entry in trace(tmp_path / "with") if "loss" in entry]
    assert steps == trace(tmp_path / "without")


def test_entries_are_means_of_the_steps_since_the_last(tmp_path):
    train(tmp_path, num_steps=5, log_every=2)
    assert [entry["batch"] for entry in trace(tmp_path)] == [1.5, 3.5, 5.0]


def test_not_finite_loss_stops_the_run_and_is_not_saved(tmp_path):
    def poisoned(state, batch):
        state, values = step(state, batch)
        return state, values | {"loss": jnp.where(batch == 8, jnp.nan, 1.0)}

    with pytest.raises(FloatingPointError, match="step 8: loss is nan"):
        train(tmp_path, step=poisoned)
    assert checkpoint.read(tmp_path / "checkpoints").step == 4
    assert trace(tmp_path)[-1]["loss"] == "nan"


def test_partial_window_is_written_before_the_run_ends_by_its_numbers(tmp_path):
    def poisoned(state, batch):
        state, values = step(state, batch)
        return state, values | {"loss": jnp.where(batch == 8, jnp.nan, 1.0)}

    with pytest.raises(FloatingPointError):
        train(tmp_path, step=poisoned, log_every=6, save_every=8)
    assert [entry["step"] for entry in trace(tmp_path)] == [6, 8]
    assert trace(tmp_path)[-1]["loss"] == "nan"


def test_every_step_is_inspected_once_and_may_end_the_run(tmp_path):
    seen = []

    def inspect(number, values):
        seen.append((number, float(values["batch"])))
        if number == 6:
            raise FloatingPointError("enough")

    with pytest.raises(FloatingPointError, match="enough"):
        train(tmp_path, inspect=inspect)
    assert seen == [(number, float(number)) for number in range(1, 7)]
    assert trace(tmp_path)[-1]["step"] >= 6


def test_evaluation_of_a_saved_step_is_kept_with_it(tmp_path):
    evaluate = lambda state: {"score": state["total"]}
    last = train(tmp_path, evaluate=evaluate, eval_every=4)
    folder = tmp_path / "checkpoints"
    assert checkpoint.read(folder, 9).metrics == {"score": float(last["total"])}
    assert checkpoint.best_step(folder, "score") == 8


def test_drawing_changes_no_step_and_no_number(tmp_path):
    seen = []
    whole = train(tmp_path / "without")
    drawn = train(
        tmp_path / "with",
        draw=lambda done, state: seen.append((done, float(state["total"]))),
        draw_every=5,
    )
    assert [done for done, _ in seen] == [5, 9]
    assert seen[-1][1] == float(whole["total"]) == float(drawn["total"])
    assert trace(tmp_path / "with") == trace(tmp_path / "without")


def test_profile_of_asked_steps_is_written(tmp_path):
    profile = watch.Profile(str(tmp_path / "profile"), first_step=3, num_steps=2)
    train(tmp_path / "run", profile=profile)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_profile_that_the_run_ends_in_is_closed(tmp_path):
    profile = watch.Profile(str(tmp_path / "profile"), first_step=9, num_steps=5)
    train(tmp_path / "run", profile=profile)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_loop_costs_less_than_a_fifth_of_a_millisecond_a_step(tmp_path):
    """Beside a step of 50 ms (the smallest that is trained here): 0.4 %."""
    free = lambda state, batch: (state, {"loss": 1.0, "tokens": 1.0})
    started = time.perf_counter()
    train(tmp_path, num_steps=5000, step=free, log_every=20, save_every=5000)
    assert (time.perf_counter() - started) / 5000 < 200e-6
