"""Going on with a run: what may have changed since, what must not, who may write.

    config.json     the config that the run goes on with
    changes.jsonl   {"time": ..., "changes": ["config.optimizer.peak_lr: ..."]} a line

A change is refused, naming the fields, unless `config.resume.allow_change` names it:
fields of the config ("optimizer.peak_lr", a section "loader", a pattern "sets.*"), the
order of the data ("data": shards were added or written again, the batch is another), or
what the code is ("versions.jax"). Sections that decide no number of the run
are free.
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import importlib.metadata
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from cm3leon_jax import storage
from cm3leon_jax.jobs import folder
from cm3leon_jax.train import hosts, lock, loop

_LOGGER = logging.getLogger(__name__)
_CONFIG = "config.json"
_CHANGES = "changes.jsonl"
_FREE = ("watch", "resume", "saving", "prefetch")
# What programs did that had no such field; folders of theirs are gone on with.
_FORMER = {
    "guard": {
        "action": "none",
        "spike_factor": 0.0,
        "spike_after": 100,
        "max_in_a_row": 10,
    },
    "mixture": {"limits": [], "shares": "", "folders": ""},
    "loader": {"cm3": {"rule": ""}},
}
_PACKAGES = ("cm3leon-jax", "jax", "jaxlib", "flax", "optax")
DATA = "data"


def start(config: ml_collections.ConfigDict, workdir: str) -> bool:
    """Claims a folder for a config, as `folder.start` does, with allowed changes.

    Returns:
      False if the job is already complete there.

    Raises:
      ValueError: If the folder was made with another config, naming the fields.
    """
    path = storage.place(workdir) / _CONFIG
    if path.exists():
        found = storage.read_json(path)
        resolved = folder.resolved(config)
        changes = folder.compare(folder.filled(found, _FORMER, resolved), resolved)
        is_complete = folder.summary(workdir) is not None
        allowed = _FREE if is_complete else (*_FREE, *names(config))
        if found != resolved and all(_is_allowed(line, allowed) for line in changes):
            storage.write_json(path, resolved)
            _note(workdir, changes)
    return folder.start(config, workdir)


def names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The changes that a config allows."""
    listed = config.resume.allow_change.split(",")
    return tuple(name.strip() for name in listed if name.strip())


@contextlib.contextmanager
def only_writer(workdir: str) -> Iterator[None]:
    """Holds a run's folder for this run, on the host that writes.

    Raises:
      ValueError: If another run that lives holds it.
    """
    held = lock.hold(workdir) if hosts.is_first() else contextlib.nullcontext()
    with held:
        yield


def versions() -> dict[str, str]:
    """The versions of this package and of those that decide the numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from its source
            found[package] = "unknown"
    return found


class Batches:
    """Batches whose place says what they belong to, the same for all hosts."""

    def __init__(
        self,
        batches: loop.AbstractBatches,
        identity: Mapping[str, Any],
        *,
        allowed: Sequence[str],
        workdir: str,
    ):
        """Reads nothing.

        Args:
          batches: This host's, whose state is a fingerprint and a dict `streams`.
          identity: JSON values that should be the same when the run goes on.
          allowed: Names of changes that are not refused.
          workdir: Of the run, where changes are noted.
        """
        self._batches = batches
        self._identity = dict(identity)
        self._allowed = allowed
        self._workdir = workdir

    def __next__(self) -> Any:
        """Returns this host's next batch."""
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """Returns the place of all hosts' streams; all hosts must call it."""
        states = hosts.gather(self._batches.get_state())
        streams = {k: v for state in states for k, v in state["streams"].items()}
        return {**states[0], "streams": streams, "identity": self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Moves to a place, on any number of hosts.

        Raises:
          ValueError: If it belongs to other data or another version of the code.
        """
        state = dict(state)
        now = self._batches.get_state()["fingerprint"]
        identity, before = state.pop("identity", {}), state["fingerprint"]
        # What an older program did not write down cannot be compared.
        known = {k: v for k, v in self._identity.items() if k in identity}
        changes = folder.compare(identity, known, "")
        if before != now:
            changes.append(f".{DATA}: {before[:12]} -> {now[:12]}")
        changes = [line.removeprefix(".") for line in changes]
        refused = [line for line in changes if not _is_allowed(line, self._allowed)]
        if refused:
            wanted = ",".join(line.partition(":")[0] for line in refused)
            raise ValueError(
                f"{self._workdir} was trained so far with something else"
                f" ({'; '.join(refused)}); restore it, or go on with the change by"
                f" --config.resume.allow_change={wanted}"
            )
        _note(self._workdir, changes)
        if before != now:
            _LOGGER.warning("documents of rows that were open are left out")
            streams = {k: _next_only(v) for k, v in state["streams"].items()}
            state |= {"fingerprint": now, "streams": streams}
        self._batches.set_state(state)


def _next_only(stream: Mapping[str, Any]) -> dict[str, Any]:
    """A stream's place without its open rows, which other data cannot fill again.

    Of either way of packing (`data.rows`).
    """
    start = stream["next"]
    row = stream.get("row", 0)
    cut = {"first": start, "offset": 0, "row": row}
    return {"next": start, "rows": [], "slots": [], **cut}


def _is_allowed(line: str, allowed: Sequence[str]) -> bool:
    """Whether a difference, `config.a.b: 1 -> 2`, is among the names or below one."""
    name = line.partition(":")[0].removeprefix("config.")
    return any(
        name == each or name.startswith(f"{each}.") or fnmatch.fnmatch(name, each)
        for each in allowed
    )


def _note(workdir: str, changes: Sequence[str]) -> None:
    """Tells of changes and keeps them with the run."""
    told = [line for line in changes if not _is_allowed(line, _FREE)]
    if not told or not hosts.is_first():
        return
    for line in told:
        _LOGGER.warning("going on with a change: %s", line)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    journal = storage.Journal(storage.place(workdir) / _CHANGES)
    journal.append(json.dumps({"time": now, "changes": told}))
    journal.flush()
