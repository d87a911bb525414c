"""Runs jobs one after another as processes: their time, their memory, their restart.

Each stage is a public command in a folder of its own. A stage whose folder is complete
is skipped; one that was interrupted is started again and continues. What every stage
took is kept in `stages.json`, summed over restarts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil

from cm3leon_jax import storage
from cm3leon_jax.jobs import folder

_SAMPLE_SECONDS = 0.5
_ORPHAN_GRACE_SECONDS = 20.0
_LOG_SECONDS = "10"
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Stage:
    """One job of a run.

    Attributes:
      name: What it is called; its folder within the run's.
      config: The config file with its argument, `configs/vqgan.py:quick`.
      overrides: Values of single config fields, by dotted name.
      about: What it does, for the person who watches.
      before: Called before it starts: makes what only earlier stages' work allows.
    """

    name: str
    config: str
    overrides: Mapping[str, str | int | float]
    about: str
    before: Callable[[], None] = lambda: None

    def arguments(self, workdir: pathlib.Path) -> list[str]:
        """The command's arguments after `cm3leon`."""
        flags = [f"--config.{name}={value}" for name, value in self.overrides.items()]
        return ["--config", self.config, "--workdir", str(workdir / self.name), *flags]


def run(stages: Sequence[Stage], workdir: pathlib.Path) -> None:
    """Runs the stages that are not complete, in order.

    Raises:
      ValueError: If a stage fails, naming it and its command.
    """
    environment = dict(os.environ)
    environment.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str((workdir / folder.COMPILE_CACHE).absolute())
    )
    if not sys.stderr.isatty():  # a log file wants few lines of progress
        environment.setdefault("TQDM_MININTERVAL", _LOG_SECONDS)
    _end_orphan(workdir)
    for number, stage in enumerate(stages, 1):
        title = f"[{number}/{len(stages)}] {stage.name}: {stage.about}"
        if folder.summary(str(workdir / stage.name)) is not None:
            print(f"{title} (complete)", flush=True)
            continue
        arguments = stage.arguments(workdir)
        print(f"\n{title}\n$ cm3leon {shlex.join(arguments)}", flush=True)
        stage.before()
        code = _measured(stage.name, arguments, workdir, environment)
        if code:
            raise ValueError(
                f"stage {stage.name!r} ended with exit code {code} (its message is"
                " above); mend that and run the same command again"
            )


def record(workdir: pathlib.Path) -> dict[str, dict[str, float]]:
    """What the stages took so far: `seconds` and `peak_memory_gb` by name."""
    path = workdir / folder.STAGES
    return storage.read_json(path) if path.exists() else {}


def _measured(
    name: str,
    arguments: list[str],
    workdir: pathlib.Path,
    environment: Mapping[str, str],
) -> int:
    """Runs one command; adds its seconds and its memory peak to the record."""
    start = time.monotonic()
    command = [sys.executable, "-m", "cm3leon_jax.main", *arguments]
    child = subprocess.Popen(command, env=environment)
    _note(workdir, name, pid=child.pid)
    with _peak_memory() as peak:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.wait()  # the terminal told it too: it saves and ends by itself
            raise
        finally:
            seconds = time.monotonic() - start
            _note(workdir, name, seconds=seconds, peak_memory_gb=peak[0] / _GB)
    return code


def _note(
    workdir: pathlib.Path,
    name: str,
    *,
    pid: int | None = None,
    seconds: float = 0.0,
    peak_memory_gb: float = 0.0,
) -> None:
    """Updates a stage's record: seconds add up over restarts, memory is the peak."""
    stages = record(workdir)
    old = stages.get(name, {"seconds": 0.0, "peak_memory_gb": 0.0})
    stages[name] = {
        "seconds": round(old["seconds"] + seconds, 2),
        "peak_memory_gb": round(max(old["peak_memory_gb"], peak_memory_gb), 3),
    }
    if pid is not None:
        stages[name]["pid"] = pid
    storage.write_json(workdir / folder.STAGES, stages)


def _end_orphan(workdir: pathlib.Path) -> None:
    """Ends a stage that outlived its killed runner: two must not write one folder."""
    for name, stage in record(workdir).items():
        try:
            process = psutil.Process(int(stage.get("pid", -1)))
            ours = str(workdir / name) in process.cmdline()
        except (psutil.Error, ValueError):
            continue
        if ours:
            print(f"ending stage {name!r} that an earlier run left behind", flush=True)
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(_ORPHAN_GRACE_SECONDS)
            with contextlib.suppress(psutil.Error):
                process.kill()


@contextlib.contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Yields a cell with the highest resident memory of this process tree, in bytes.

    Shared pages count once for each process: an upper bound.
    """
    peak = [0]
    stop = threading.Event()

    def sample() -> None:
        me = psutil.Process()
        while not stop.wait(_SAMPLE_SECONDS):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
