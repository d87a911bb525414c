"""The training loop of every model: steps, log, evaluation, checkpoints, signals.

It knows no model: the state is any pytree, the step any function of it and a batch.
"""

import collections
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
import tqdm

from cm3leon_jax.train import checkpoint as checkpoint_lib
from cm3leon_jax.train import metrics as metrics_lib

_LOGGER = logging.getLogger(__name__)

Metrics = dict[str, Any]
Step = Callable[[Any, Any], tuple[Any, Metrics]]


class AbstractBatches(Protocol):
    """An endless iterator that knows its place."""

    def __next__(self) -> Any:
        """Returns the next batch."""
        ...

    def get_state(self) -> Any:
        """Returns JSON values from which `set_state` continues."""
        ...

    def set_state(self, state: Any) -> None:
        """Moves to a place that `get_state` gave."""
        ...


def run(
    state: Any,
    step: Step,
    batches: AbstractBatches,
    *,
    num_steps: int,
    checkpointer: checkpoint_lib.Checkpointer,
    writer: metrics_lib.Writer,
    log_every: int = 10,
    save_every: int = 1000,
    evaluate: Callable[[Any], Metrics] | None = None,
    eval_every: int = 0,
) -> Any:
    """Trains until `num_steps`, from the newest checkpoint if there is one.

    A run that is interrupted and called again gives the same states as one that
    never was. On SIGTERM or SIGINT it finishes the step, saves and exits with
    128 + the signal's number; a second signal during the save changes nothing.

    Args:
      state: pytree of arrays to start from. A step that donates it makes it
        unusable to the caller.
      step: `step(state, batch) -> (state, metrics)`, metrics being scalars by name;
        "tokens" among them gives a rate.
      batches: where batches come from.
      num_steps: steps of the whole run, those before a restart included.
      checkpointer: saves and restores.
      writer: takes the means of the metrics over the last `log_every` steps.
      log_every: steps between entries.
      save_every: steps between checkpoints; the last step is always saved.
      evaluate: `evaluate(state) -> scalars by name`; must not change anything.
      eval_every: steps between evaluations, 0 for none; the last step is
        evaluated too.

    Returns:
      The state after `num_steps`.

    Raises:
      FloatingPointError: if a metric is not finite; the checkpoints are from before.
    """
    start, state = _resume(state, batches, checkpointer, writer)
    window: collections.deque[Metrics] = collections.deque()
    before: Metrics = {}
    # On CPU devices two programs with collectives may take the threads that the
    # other one waits for, and both wait forever: one at a time there.
    is_ahead = jax.default_backend() != "cpu"
    since = time.perf_counter()
    with (
        _signals() as received,
        contextlib.closing(checkpointer),
        tqdm.tqdm(total=num_steps, initial=start, unit="step", smoothing=0.1) as bar,
    ):
        for done in range(start + 1, num_steps + 1):
            batch = next(batches)
            if not is_ahead:
                jax.block_until_ready(before)
            state, metrics = step(state, batch)
            if is_ahead:  # by one step, no more
                jax.block_until_ready(before)
            before = metrics
            window.append(metrics)
            is_last = done == num_steps
            if done % log_every == 0 or is_last:
                writer.write(done, _entry(window, time.perf_counter() - since))
                window.clear()
                since = time.perf_counter()
                bar.set_postfix(_shown(writer.latest), refresh=False)
            if evaluate and eval_every and (done % eval_every == 0 or is_last):
                jax.block_until_ready(metrics)
                writer.write(done, evaluate(state))
                since = time.perf_counter()
            bar.update()
            if done % save_every == 0 or is_last or received:
                _check(done, window, writer)
                checkpointer.save(done, state, batches.get_state())
            if received:
                checkpointer.wait()
                _LOGGER.warning("stopped after step %d, which is saved", done)
                raise SystemExit(128 + received[0])
    writer.flush()
    return state


def _resume(
    state: Any,
    batches: AbstractBatches,
    checkpointer: checkpoint_lib.Checkpointer,
    writer: metrics_lib.Writer,
) -> tuple[int, Any]:
    restored = checkpointer.restore(state)
    if restored is None:
        writer.rewind(0)
        return 0, state
    batches.set_state(restored.data)
    writer.rewind(restored.step)
    _LOGGER.info("resumed after step %d", restored.step)
    return restored.step, restored.state


def _check(
    step: int, window: collections.deque[Metrics], writer: metrics_lib.Writer
) -> None:
    """Refuses to save a state whose numbers are not finite."""
    writer.flush()
    for name, value in jax.device_get(window[-1] if window else {}).items():
        if not np.isfinite(value):
            raise FloatingPointError(f"step {step}: {name} is {value}; not saved")


def _entry(window: collections.deque[Metrics], seconds: float) -> Metrics:
    entry = {name: [metrics[name] for metrics in window] for name in window[0]}
    return entry | {"steps_per_second": len(window) / seconds}


def _shown(latest: dict[str, float]) -> dict[str, str]:
    names = ("loss", "tokens_per_second")
    return {name: f"{latest[name]:.4g}" for name in names if name in latest}


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    handle = lambda number, frame: received.append(number)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
