"""What a run tells from outside while it works, and what it does when it hangs.

    heartbeats/host-0.json    rewritten every few seconds by every host
    heartbeats/stall-0.txt    where all its threads stood when no step ended in time

Goodput is the time of steps that counted over all time since the run first began: what
start-up, compiling, waiting for data, saving, evaluating, lying dead and repeating steps
cost is the rest of it. It is carried from start to start by the heartbeats themselves.

A thread of its own writes, so that a slow disk keeps no step waiting, and a host that
hangs still says so; another watches, in case it is the disk that hangs. They need the
interpreter's lock: code that holds it for ever (no call of JAX does) silences them, which
whoever reads the heartbeats sees by their age.
"""

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from cm3leon_jax import storage

_LOGGER = logging.getLogger(__name__)
FOLDER = "heartbeats"
STALLED_EXIT_CODE = 6
_TELL_SECONDS = 10.0  # that a process that hangs has for leaving its stacks
_NUM_MARKS = 8  # checkpoints whose productive time is remembered
_SHOWN = ("loss", "tokens_per_second", "utilisation")


class Heartbeat:
    """Writes how a run goes on while it runs; ends the process when it hangs."""

    def __init__(
        self,
        folder: str,
        *,
        num_steps: int,
        tokens_per_step: int = 0,
        every_seconds: float = 10.0,
        stall_seconds: float = 0.0,
    ):
        """Reads what this host wrote before, if it did.

        Args:
          folder: for the files, made when first needed.
          num_steps: of the whole run.
          tokens_per_step: places of all rows of a step.
          every_seconds: between two writes; 0 for no heartbeat at all.
          stall_seconds: without a step until the process ends; 0 for never.
        """
        if stall_seconds and not 0 < every_seconds <= stall_seconds:
            raise ValueError(
                f"watch.stall_seconds={stall_seconds:g} is watched over every"
                f" watch.heartbeat_seconds={every_seconds:g}, which must be above 0 and"
                " not longer; try 10, or set both to 0"
            )
        host = jax.process_index()
        self._path = storage.place(folder) / f"host-{host}.json"
        self._stacks = self._path.with_name(f"stall-{host}.txt")
        self._num_steps = num_steps
        self._tokens_per_step = tokens_per_step
        self._every = every_seconds
        self._stall = stall_seconds
        before = _read(self._path) if every_seconds else {}
        self._began = float(before.get("began", time.time()))
        self._marks = {int(k): float(v) for k, v in before.get("marks", {}).items()}
        self._productive = 0.0  # seconds
        self._first: tuple[int, float] | None = None  # step and time of this process
        self._last = time.monotonic()
        self._fields: dict[str, Any] = {"step": 0}
        self._saving: int | None = None  # the step that is saved, until the next begins
        self._ended = threading.Event()
        self._writing = threading.Lock()

    @property
    def is_kept(self) -> bool:
        """Whether anything is written at all."""
        return self._every > 0

    def resume(self, step: int) -> None:
        """Goes on after a step; what was spent on later ones is lost."""
        known = [mark for mark in self._marks if mark <= step]
        self._productive = self._marks[max(known)] if known else 0.0
        self._marks = {mark: self._marks[mark] for mark in known}
        self._fields = {"step": step}

    def beat(
        self,
        step: int,
        numbers: Mapping[str, float],
        *,
        idle_seconds: float,
        last_checkpoint: int | None,
        failed_saves: int = 0,
        late_saves: int = 0,
    ) -> None:
        """Tells that a step was started, and those before it were done.

        Args:
          step: steps done.
          numbers: the last entry of the log.
          idle_seconds: since the step before, spent on something else than steps.
          last_checkpoint: newest step that is safely on disk.
          failed_saves: that were gone on from.
          late_saves: that had to wait for the one before.
        """
        now = time.monotonic()
        self._saving = None
        if self._first is None:  # it was compiled: not productive
            self._first = (step, now)
        else:
            self._productive += max(0.0, now - self._last - idle_seconds)
        self._last = now
        first, since = self._first
        pace = (now - since) / (step - first) if step > first else None
        left = None if pace is None else pace * (self._num_steps - step)
        fields: dict[str, Any] = {"step": step, "seconds_left": left}
        fields["tokens"] = step * self._tokens_per_step
        fields["last_checkpoint"] = last_checkpoint
        fields |= {"failed_saves": failed_saves, "late_saves": late_saves}
        fields["goodput"] = self.goodput()
        self._fields = fields | {n: numbers[n] for n in _SHOWN if n in numbers}

    def mark(self, step: int) -> None:
        """Remembers what was productive until a step, which is being saved."""
        self._saving = step
        kept = sorted(self._marks)[-_NUM_MARKS + 1 :]
        marks = {mark: self._marks[mark] for mark in kept}
        self._marks = marks | {step: self._productive}

    def goodput(self) -> float:
        """Returns the share of the time so far that was productive, 0 to 1."""
        total = time.time() - self._began
        return min(1.0, self._productive / total) if total > 0 else 0.0

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Writes in the background for as long as it is entered, and at its end."""
        if not self.is_kept:
            yield
            return
        self._ended.clear()
        self._last = time.monotonic()
        threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("heartbeat", self._work), ("watchdog", self._watch))
        ]
        for thread in threads:
            thread.start()
        state = "stopped"
        try:
            yield
            state = "done"
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
            self._write(state)

    def _work(self) -> None:
        self._write("running")
        while not self._ended.wait(self._every):
            self._write("running")

    def _watch(self) -> None:
        """Looks for a stall; writes nothing, since a disk may be what hangs."""
        while self._stall and not self._ended.wait(self._every):
            silent = time.monotonic() - self._last
            if silent > self._stall:
                self._give_up(silent)

    def _give_up(self, silent: float) -> None:
        """Says where all threads stand, and ends the process."""
        self._ended.set()  # nothing is written after what is told here
        stacks = _stacks()
        telling = threading.Thread(target=self._tell, args=(stacks,), daemon=True)
        telling.start()
        telling.join(_TELL_SECONDS)
        print(stacks.decode(), file=sys.stderr, flush=True)
        saving = "" if self._saving is None else ", which is not saved yet"
        _LOGGER.critical(
            "stalled: no step for %.0f s after step %d%s (watch.stall_seconds=%g);"
            " threads in %s; exit code %d, start the same command again",
            silent,
            self._fields["step"],
            saving,
            self._stall,
            self._stacks,
            STALLED_EXIT_CODE,
        )
        os._exit(STALLED_EXIT_CODE)  # a thread hangs: nothing can be closed in order

    def _tell(self, stacks: bytes) -> None:
        """Leaves the stacks beside the last heartbeat."""
        with contextlib.suppress(OSError):
            storage.write_bytes(self._stacks, stacks)
        self._write("stalled")

    def _write(self, state: str) -> None:
        record = {
            "time": time.time(),
            "host": jax.process_index(),
            "num_hosts": jax.process_count(),
            "pid": os.getpid(),
            "state": state,
            "num_steps": self._num_steps,
            **self._fields,
            "began": self._began,
            "marks": {str(step): seconds for step, seconds in self._marks.items()},
        }
        try:
            with self._writing:  # one after the other: the last one tells
                storage.write_json(self._path, record)
        except (OSError, ValueError) as error:  # a run does not end for want of it
            _LOGGER.warning("no heartbeat: %s", error)


def read(folder: str) -> list[dict[str, Any]]:
    """Returns the newest heartbeat of every host, in their order."""
    paths = storage.place(folder).glob("host-*.json")
    return sorted(map(storage.read_json, paths), key=lambda each: each["host"])


def _stacks() -> bytes:
    """Where all threads stand, as text."""
    with tempfile.TemporaryFile() as file:  # a file of the system is wanted
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        return storage.read_json(path)
    except (FileNotFoundError, ValueError):  # none, or cut off: time is counted anew
        return {}
