"""A training run through one fault after the other, and what was lost by them.

Usage:
    PYTHONPATH=. python benchmarks/soak.py --minutes=10 --faults-per-minute=3

The real job on made-up shards, in processes of its own, on a small disk of its own (a
tmpfs that only these processes see; no rights are needed on Linux). One run is left
alone; then runs of the same config meet faults, drawn by a seed at drawn moments, and
are started again by the same command until they are done. Each must end as the first
did: the same entries of the log, each once, the same bytes of parameters, moments and
place in the data, and every checkpoint that is left must verify. Prints a line of JSON;
exit code 1 if anything was lost.

Faults: kill (SIGKILL), terminate (SIGTERM), twice (two of them at once), interrupt
(SIGINT), writer (a second process on the folder, which must be refused), flip (SIGKILL,
then a bit of the newest checkpoint), cut and delete (likewise a file of it), empty
(SIGKILL, then a newer step without anything in it), shard (SIGKILL, then a shard cut in
half: refused until it is whole again), full (the disk, while the run goes on), read-only
(likewise).
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO

import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.data import record, shards
from cm3leon_jax.jobs import folder as folder_lib
from cm3leon_jax.train import checkpoint, metrics, unit
from cm3leon_jax.vocab import Vocab

_VOCAB = Vocab(
    text_size=40, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
_USAGE, _STORAGE = 2, 4  # exit codes, see `cm3leon_jax.main`
_SIGNALS = {"terminate": signal.SIGTERM, "twice": signal.SIGTERM} | {
    "interrupt": signal.SIGINT
}
_AFTER_KILL = ("flip", "cut", "delete", "empty", "shard")
_KINDS = ("kill", *_SIGNALS, "writer", *_AFTER_KILL, "full", "read-only")
_DISK = 'mount -t tmpfs -o size=100m tmpfs "$1" && shift && exec "$@"'
_TIMED = ("per_second", "_share", "memory_", "utilisation")  # differ by nature
_PATIENCE_SECONDS = 120.0  # for an end that a fault must bring


def main(argv: list[str]) -> int:
    """Runs the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description="Faults, and what they cost.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--faults-per-minute", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=2000, help="of each run")
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", default="", help="given by the command to itself")
    given = parser.parse_args(argv)
    if not given.disk:
        with tempfile.TemporaryDirectory() as folder:
            own = ["unshare", "--map-root-user", "--mount", "bash", "-c", _DISK, ""]
            again = [sys.executable, __file__, *argv, f"--disk={folder}"]
            return subprocess.run([*own, folder, *again], check=False).returncode
    with tempfile.TemporaryFile() as output:  # of all processes, on another disk
        found = Soak(pathlib.Path(given.disk), given, output).run()
    print(json.dumps(found))
    return 1 if found["lost"] else 0


class Soak:
    """Runs under faults, beside one without."""

    def __init__(
        self, disk: pathlib.Path, given: argparse.Namespace, output: IO[bytes]
    ):
        """Makes the shards."""
        self._disk = disk
        self._given = given
        self._draw = random.Random(given.seed)
        self._output = output
        self._coming: list[str] = []  # kinds, all of them before one comes again
        self._due = 0.0  # when the next fault comes
        self._end = 0.0
        self._injected: collections.Counter[str] = collections.Counter()
        self._returns: list[float] = []  # seconds from a start to a step
        self._damaged: set[int] = set()  # folders (inodes) that were, and not by a run
        self._lost: list[str] = []
        make_shards(disk / "shards")

    def run(self) -> dict[str, object]:
        """Returns what was done and what came of it."""
        golden, workdir = self._disk / "golden", self._disk / "run"
        since = time.monotonic()
        code = self._start(golden).wait()
        alone = time.monotonic() - since
        if code:
            raise RuntimeError(f"the run without faults: {code}\n{self._said()}")
        since = time.monotonic()
        self._end = since + 60 * self._given.minutes
        self._due = since + self._pause()
        num_runs = 0
        while time.monotonic() < self._end:
            self._train(workdir)
            self._compare(golden, workdir)
            shutil.rmtree(workdir)
            num_runs += 1
        return {
            "minutes": round((time.monotonic() - since) / 60, 1),
            "runs": num_runs,
            "steps_a_run": self._given.steps,
            "seconds_without_faults": round(alone, 1),
            "seconds_from_a_start_to_a_step": {
                "median": round(float(np.median(self._returns or [0.0])), 1),
                "most": round(max(self._returns, default=0.0), 1),
            },
            "faults": dict(sorted(self._injected.items())),
            "injected": sum(self._injected.values()),
            "lost": self._lost,
        }

    def _train(self, workdir: pathlib.Path) -> None:
        """Trains one run to its end through the faults that fall due."""
        reached, is_stuck, num_failed = 0, False, 0
        while True:
            low, is_back, is_beyond = last_step(workdir), False, False
            process, since = self._start(workdir), time.monotonic()
            while process.poll() is None:
                time.sleep(0.05)
                now = last_step(workdir)
                if now > low and not is_back:  # its log goes on
                    is_back = True
                    self._returns.append(time.monotonic() - since)
                low, is_beyond = min(low, now), now > reached
                # A start that was hit before it trained lets the next one train.
                if self._due < time.monotonic() and (is_beyond or not is_stuck):
                    break
            else:
                if process.returncode == 0:
                    return
                num_failed += 1
                self._lost.append(f"ended with {process.returncode}: {self._said()}")
                if num_failed > 3:
                    raise RuntimeError(str(self._lost))
                continue
            now = last_step(workdir)
            is_stuck, reached = now <= reached, max(now, reached)
            self._inject(process, workdir)

    def _inject(self, process: subprocess.Popen[bytes], workdir: pathlib.Path) -> None:
        """Does the fault that comes next; the process has ended after it."""
        if not self._coming:
            self._coming = self._draw.sample(_KINDS, len(_KINDS))
        kind = self._coming.pop()
        if kind in _SIGNALS:
            codes = self._signal(process, kind)
        elif kind == "writer":
            codes = self._second(process, workdir)
        elif kind == "full":
            fill(self._disk, process)
            codes = process.wait(), (_STORAGE, 0)
        elif kind == "read-only":
            with read_only(self._disk):
                codes = process.wait(_PATIENCE_SECONDS), (_STORAGE, 0)
        else:
            process.kill()
            codes = process.wait(), (-signal.SIGKILL, 0)
            if kind != "kill":
                kind = self._damage(kind, workdir)
        print(f"{kind} at step {last_step(workdir)}", file=sys.stderr, flush=True)
        self._injected[kind] += 1
        code, right = codes
        if code not in right:
            self._lost.append(f"{kind}: exit code {code}: {self._said()}")
        self._due += self._pause()
        if self._due > self._end:
            self._due = float("inf")

    def _signal(self, process: subprocess.Popen[bytes], kind: str):
        """Signals, of which the loop makes a save; before it there is none to make."""
        number = _SIGNALS[kind]
        for _ in range(1 + (kind == "twice")):
            process.send_signal(number)
        return process.wait(_PATIENCE_SECONDS), (128 + number, -number, 0)

    def _second(self, process: subprocess.Popen[bytes], workdir: pathlib.Path):
        """A second writer beside a first that holds the folder; then a kill."""
        while process.poll() is None and holder(workdir) != process.pid:
            time.sleep(0.05)
        second = self._start(workdir)
        code = second.wait(_PATIENCE_SECONDS)
        is_alone = process.poll() is not None  # the first was done before
        process.kill()
        process.wait()
        return code, (_USAGE, 0) if is_alone else (_USAGE,)

    def _damage(self, kind: str, workdir: pathlib.Path) -> str:
        """Damages what a killed process left; returns what that was after all."""
        if kind == "shard":
            self._refuse_cut_shard(workdir)
            return kind
        if folder_lib.summary(str(workdir)) is not None:
            return "kill"  # complete: no start would look at its checkpoints again
        found = sorted(p for p in workdir.glob("checkpoints/*") if p.name.isdigit())
        whole = [path for path in found if files_of(path)]
        if kind == "empty" and whole:
            path = whole[-1].parent / f"{int(found[-1].name) + 1:08d}"
            path.mkdir()
        elif len(whole) > 1:  # one before it is left
            path = whole[-1]
            damage(path, kind, self._draw)
        else:
            return "kill"
        self._damaged.add(path.stat().st_ino)
        return kind

    def _refuse_cut_shard(self, workdir: pathlib.Path) -> None:
        """Starts the run on half a shard, and makes the shard whole again."""
        path = max(files_of(self._disk / "shards"), key=lambda p: p.stat().st_size)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        code = self._start(workdir).wait(_PATIENCE_SECONDS)
        path.write_bytes(content)
        if code != _USAGE or path.name not in self._said():
            self._lost.append(f"shard: exit code {code}: {self._said()}")

    def _compare(self, golden: pathlib.Path, workdir: pathlib.Path) -> None:
        """Notes what differs from the run without faults, and what does not verify."""
        if trace(golden) != trace(workdir):
            self._lost.append("the log differs")
        saved = workdir / "checkpoints"
        for path in sorted(saved.glob("????????")):
            try:
                if path.stat().st_ino not in self._damaged:
                    checkpoint.read(str(saved), int(path.name))
            except unit.DamagedError as error:
                self._lost.append(f"{path.name} does not verify: {error}")
        states = [checkpoint.read(str(x / "checkpoints")) for x in (golden, workdir)]
        if (states[0].step, states[0].data) != (states[1].step, states[1].data):
            self._lost.append("another place in the data")
        for name, array in states[0].state.items():
            if states[1].state[name].tobytes() != array.tobytes():
                self._lost.append(f"{name} differs")

    def _pause(self) -> float:
        """Seconds until the next fault: they come independently of each other."""
        return self._draw.expovariate(self._given.faults_per_minute / 60)

    def _said(self) -> str:
        """The last line of what the processes said."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 2000))
        lines = self._output.read().decode(errors="replace").replace("\r", "\n")
        errors = [line for line in lines.splitlines() if line.startswith("error:")]
        return errors[-1] if errors else lines[-400:]

    def _start(self, workdir: pathlib.Path) -> subprocess.Popen[bytes]:
        """Starts the job."""
        settings = {
            "shards": self._disk / "shards",
            "num_cpu_devices": 1,
            "loader.batch_size": 4,
            "loader.max_length": 32,
            "loop.num_steps": self._given.steps,
            "loop.save_every": self._given.save_every,
            "loop.log_every": 1,
            "loop.eval_every": 0,
            "watch.heartbeat_seconds": 1.0,
        }
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        command = [sys.executable, "-m", "cm3leon_jax.main", f"--workdir={workdir}"]
        command += ["--config=configs/pretrain.py:350m,debug", *flags]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self._disk / "cache")}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return subprocess.Popen(
            command,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | cache,
            stdout=self._output,
            stderr=self._output,
        )


def fill(disk: pathlib.Path, process: subprocess.Popen[bytes]) -> None:
    """Leaves a disk without room for another byte until a process has ended."""
    path, deadline = disk / "filler", time.monotonic() + _PATIENCE_SECONDS
    with path.open("wb", buffering=0) as file:
        while process.poll() is None and time.monotonic() < deadline:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
            time.sleep(0.02)  # a checkpoint that is deleted makes room again
    path.unlink()


@contextlib.contextmanager
def read_only(disk: pathlib.Path) -> Iterator[None]:
    """A disk that takes nothing; as soon as no file of it is being written."""
    mount = lambda how: subprocess.run(
        ["mount", "-o", f"remount,{how}", disk], capture_output=True, check=False
    )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while mount("ro").returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{disk} is always being written")
    try:
        yield
    finally:
        mount("rw").check_returncode()


def make_shards(folder: pathlib.Path) -> None:
    """Writes small shards of drawn tokens."""

    def document(index: int) -> record.Record:
        draw = np.random.default_rng(index)
        text = draw.integers(10, 20, draw.integers(4, 9))
        codes = _VOCAB.image_ids(draw.integers(0, 16, 4))
        tokens = np.array([*text, _VOCAB.break_id, *codes], np.uint16)
        return record.Record(str(index), tokens, np.array([0, 1], np.uint8))

    written = {
        split: [shards.write_shard(folder / "pairs", split, 0, map(document, numbers))]
        for split, numbers in (("train", range(200)), ("validation", range(200, 220)))
    }
    info = shards.SetInfo(_VOCAB, text_tokenizer="t", image_tokenizer="i")
    shards.finish(folder / "pairs", info, written)


def damage(step: pathlib.Path, kind: str, draw: random.Random) -> None:
    """Flips a bit of a file of a checkpoint, cuts it in half, or deletes it."""
    path = draw.choice(files_of(step))
    content = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    if kind == "cut":
        del content[len(content) // 2 :]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def trace(workdir: pathlib.Path) -> list[dict[str, object]]:
    """The log of a run, without what differs by nature."""
    entries = metrics.read(str(workdir / "metrics.jsonl"))
    is_timed = lambda name: any(part in name for part in _TIMED)
    return [{k: v for k, v in e.items() if not is_timed(k)} for e in entries]


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files below a folder that hold anything."""
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if path.is_file() and path.stat().st_size]


def holder(workdir: pathlib.Path) -> int | None:
    """The process that says it writes a folder."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return storage.read_json(workdir / "writer.lock")["pid"]
    return None


def last_step(workdir: pathlib.Path) -> int:
    """The last step that a run has logged; 0 if none."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        lines = file.read().decode().splitlines()
    whole = [x for x in lines if x.startswith('{"step"') and x.endswith("}")]
    return json.loads(whole[-1])["step"] if whole else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
