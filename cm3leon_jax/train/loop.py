"""The training loop of every model: steps, log, evaluation, checkpoints, signals.

It knows no model: the state is any pytree, the step any function of it and a batch.
"""

import collections
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import tqdm

from cm3leon_jax.train import checkpoint as checkpoint_lib
from cm3leon_jax.train import heartbeat, hosts, watch
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
    draw: Callable[[int, Any], None] | None = None,
    draw_every: int = 0,
    measure: Callable[[Any], Metrics] | None = None,
    inspect: Callable[[int, Metrics], None] | None = None,
    profile: watch.Profile | None = None,
    pulse: heartbeat.Heartbeat | None = None,
) -> Any:
    """Trains until `num_steps`, from the newest checkpoint if there is one.

    A run that is interrupted and called again gives the same states as one that
    never was. On SIGTERM or SIGINT it finishes the step, saves and exits with
    128 + the signal's number; a second signal during the save changes nothing. Of
    several hosts one that is told is enough: all stop after the same step.

    Args:
      state: pytree of arrays to start from. A step that donates it makes it
        unusable to the caller. Where there is a checkpoint, shapes with shardings do
        (`jax.ShapeDtypeStruct`), and no memory is taken twice.
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
      draw: `draw(steps done, state)`, which shows what the model makes; must not change
        anything.
      draw_every: steps between drawings, 0 for none; after the last step too.
      measure: `measure(state) -> scalars by name, on the device`, for every entry.
      inspect: `inspect(step, metrics)` of every step, called while the next one runs;
        may raise FloatingPointError.
      profile: steps to record.
      pulse: tells from outside how the run goes, and ends it when it hangs.

    Returns:
      The state after `num_steps`.

    Raises:
      FloatingPointError: if a metric is not finite; the checkpoints are from before.
      SaveError: if a checkpoint could not be written.
    """
    # On CPU devices two programs with collectives may take the threads that the
    # other one waits for, and both wait forever: one at a time there.
    is_ahead = jax.default_backend() != "cpu"
    log = _Log(writer, checkpointer, inspect)
    profile = profile or watch.Profile("", 0, 0)
    pulse = pulse or heartbeat.Heartbeat("", num_steps=num_steps, every_seconds=0)
    start, state = _resume(state, batches, checkpointer, log)
    now = _Run(state, step, batches, log, profile, is_ahead=is_ahead)
    del state  # its memory is free once the first step has replaced it
    stop = hosts.Shared(is_ahead=is_ahead)
    pulse.resume(start)
    with (
        _signals() as received,
        pulse.beating(),
        contextlib.closing(writer),
        contextlib.closing(checkpointer),
        profile.running(),
        log.flushed(),
        tqdm.tqdm(total=num_steps, initial=start, unit="step", smoothing=0.1) as bar,
    ):
        for done in range(start + 1, num_steps + 1):
            now.advance(done)
            log.beat(pulse)
            bar.set_postfix(_shown(writer.latest, pulse), refresh=False)
            if _is_due(log_every, done, num_steps):
                now.write(measure)
            scores: Metrics = {}
            if evaluate and _is_due(eval_every, done, num_steps):
                with log.paused(now.pending):
                    scores = evaluate(now.state)
                    writer.write(done, scores)
            if draw and _is_due(draw_every, done, num_steps):
                with log.paused(now.pending):
                    draw(done, now.state)
            bar.update()
            number = now.agree(stop, received)
            if _is_due(save_every, done, num_steps) or number:
                pulse.mark(done)
                now.save(done, checkpointer, scores)
            if number:
                checkpointer.wait()
                _LOGGER.warning("stopped after step %d, which is saved", done)
                raise SystemExit(128 + number)
        log.look(num_steps, now.pending)
    return now.state


class _Run:
    """A run on its way: the state, and the numbers of its last step.

    Attributes:
      state: after the last step.
      pending: numbers of the last step that are still on the device.
    """

    def __init__(
        self,
        state: Any,
        step: Step,
        batches: AbstractBatches,
        log: "_Log",
        profile: watch.Profile,
        *,
        is_ahead: bool,
    ):
        self.state = state
        self.pending: Metrics = {}
        self._metrics: Metrics = {}  # of `pending` those that the step returned
        self._step = step
        self._batches = batches
        self._log = log
        self._profile = profile
        self._is_ahead = is_ahead  # a step may start before the last one ended

    def advance(self, done: int) -> None:
        """Starts step `done`, and while it runs looks at the one before."""
        with self._log.waiting():
            batch = next(self._batches)
        self._profile.before(done, self.pending)
        if not self._is_ahead:
            jax.block_until_ready(self.pending)
        self.state, self._metrics = self._step(self.state, batch)
        if self._is_ahead:  # by one step, no more
            jax.block_until_ready(self.pending)
        # The step before is done: nothing waits for the device.
        self._log.look(done - 1, self.pending)
        self.pending = self._metrics
        self._log.add(done, self._metrics)
        self._profile.after(done, self._metrics)

    def write(self, measure: Callable[[Any], Metrics] | None) -> None:
        """Makes an entry of the log, with what is measured of the state."""
        if measure:
            if not self._is_ahead:
                jax.block_until_ready(self._metrics)
            self.pending = self._metrics | measure(self.state)
        self._log.write(self.pending)

    def agree(self, stop: hosts.Shared, received: Sequence[int]) -> int:
        """Returns the signal that ends the run on all hosts, 0 for none."""
        if not self._is_ahead and jax.process_count() > 1:
            jax.block_until_ready(self._metrics)
        return stop.largest(received[0] if received else 0)

    def save(
        self, done: int, checkpointer: checkpoint_lib.Checkpointer, scores: Metrics
    ) -> None:
        """Starts to save the state, if its numbers are finite."""
        self._log.check(done, self._metrics)
        self._log.sync()  # what a checkpoint is from the log must hold too
        place = self._batches.get_state()
        checkpointer.save(done, self.state, place, scores, self._log.unwritten())


class _Log:
    """The metrics of the steps since the last entry, and the time they took."""

    def __init__(
        self,
        writer: metrics_lib.Writer,
        checkpointer: checkpoint_lib.Checkpointer,
        inspect: Callable[[int, Metrics], None] | None,
    ):
        self._writer = writer
        self._checkpointer = checkpointer
        self._stalled = 0.0  # seconds of checkpoints, those of the entries before
        self._inspect = inspect
        self._window: collections.deque[Metrics] = collections.deque()
        self._num_before = 0  # of the window, from before a restart
        self._since = time.perf_counter()
        self._waited = 0.0  # seconds of it for batches
        self._idle = 0.0  # seconds since the last beat that steps did not take
        self._stalled_before = 0.0  # of checkpoints, until the last beat
        self._done = 0  # the last step that was added
        self._looked = 0  # and the last that was inspected

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics, on the device or not."""
        self._done = step
        self._window.append(metrics)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time spent in it as waiting for data."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._waited += seconds
        self._idle += seconds

    @contextlib.contextmanager
    def paused(self, pending: Metrics) -> Iterator[None]:
        """Waits for the step, then leaves out the time that is spent in it."""
        jax.block_until_ready(pending)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._since += seconds
        self._idle += seconds

    def beat(self, pulse: heartbeat.Heartbeat) -> None:
        """Tells of the last step, and of the time that was spent beside it."""
        stalled = self._checkpointer.stall_seconds
        idle = self._idle + stalled - self._stalled_before
        self._idle, self._stalled_before = 0.0, stalled
        pulse.beat(
            self._done,
            self._writer.latest,
            idle_seconds=idle,
            last_checkpoint=self._checkpointer.last_step,
            failed_saves=self._checkpointer.num_failed,
            late_saves=self._checkpointer.num_late,
        )

    def write(self, latest: Metrics) -> None:
        """Makes an entry of the window, and of what only the latest step has."""
        seconds = time.perf_counter() - self._since
        names = self._window[0]
        entry: Metrics = {name: [m[name] for m in self._window] for name in names}
        entry |= {name: x for name, x in latest.items() if name not in names}
        num_steps = len(self._window) - self._num_before
        entry["steps_per_second"] = num_steps / seconds
        entry["data_share"] = self._waited / seconds
        stalled = self._checkpointer.stall_seconds
        entry["save_share"] = (stalled - self._stalled) / seconds
        if self._checkpointer.num_failed:
            entry["failed_saves"] = self._checkpointer.num_failed
        self._stalled = stalled
        self._writer.write(self._done, entry)
        self._window.clear()
        self._num_before = 0
        self._since, self._waited = time.perf_counter(), 0.0

    def unwritten(self) -> list[dict[str, str]]:
        """Returns the window as JSON values, for the entry that a resumed run makes."""
        host = jax.device_get(list(self._window))
        return [{name: repr(float(x)) for name, x in step.items()} for step in host]

    def resume(self, step: int, unwritten: Sequence[Mapping[str, str]]) -> None:
        """Goes on after a step, with what `unwritten` returned then."""
        self._writer.rewind(step)
        steps = [{name: float(x) for name, x in each.items()} for each in unwritten]
        self._window.extend(steps)
        self._num_before = len(steps)

    def look(self, step: int, metrics: Metrics) -> None:
        """Inspects a step that is done and writes its entry, if there is one."""
        if metrics and self._inspect and step > self._looked:
            self._looked = step
            self._inspect(step, metrics)
        self._writer.flush()

    def sync(self) -> None:
        """Returns when the entries so far are written for good."""
        self._writer.sync()

    def check(self, step: int, metrics: Metrics) -> None:
        """Refuses to save a state whose numbers are not finite."""
        self.look(step, metrics)
        is_skipped = metrics.get(metrics_lib.SKIPPED, 0)
        for name, value in jax.device_get(metrics).items():
            if not np.isfinite(value) and not is_skipped:
                raise FloatingPointError(f"step {step}: {name} is {value}; not saved")

    @contextlib.contextmanager
    def flushed(self) -> Iterator[None]:
        """Writes what is left of the window if numbers end the run."""
        try:
            yield
        except FloatingPointError:
            with contextlib.suppress(FloatingPointError):
                self._writer.flush()
            if self._window:
                self.write({})
            with contextlib.suppress(FloatingPointError):
                self._writer.flush()
            raise


def _resume(
    state: Any,
    batches: AbstractBatches,
    checkpointer: checkpoint_lib.Checkpointer,
    log: _Log,
) -> tuple[int, Any]:
    restored = checkpointer.restore(state)
    if restored is None:
        log.resume(0, ())
        return 0, state
    batches.set_state(restored.data)
    log.resume(restored.step, restored.log or ())
    _LOGGER.info("resumed after step %d", restored.step)
    return restored.step, restored.state


def _is_due(every: int, done: int, num_steps: int) -> bool:
    return bool(every) and (done % every == 0 or done == num_steps)


def _shown(latest: dict[str, float], pulse: heartbeat.Heartbeat) -> dict[str, str]:
    names = ("loss", "tokens_per_second")
    shown = {name: f"{latest[name]:.4g}" for name in names if name in latest}
    if shown and pulse.is_kept:
        shown["goodput"] = f"{pulse.goodput():.0%}"
    return shown


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
