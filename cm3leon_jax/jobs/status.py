"""Says how a run goes, from its heartbeats: a line a host.

    host 0: running, step 120 of 1,000, loss 5.1, 7,012 tokens/s, checkpoint 100,
            0:13:32 left, goodput 93 %
    host 1: silent for 0:10:12, step 88 of 1,000, ...

Ends with exit code 6 if a host is silent or stalled, so that a cluster can act on it.
"""

import datetime
import sys
import time
from typing import Any

import ml_collections

from cm3leon_jax import storage
from cm3leon_jax.train import heartbeat


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Prints the lines; writes nothing.

    Raises:
      FileNotFoundError: If no host of a run ever wrote a heartbeat there.
      SystemExit: If a host is silent or stalled.
    """
    found = heartbeat.read(str(storage.place(workdir) / heartbeat.FOLDER))
    if not found:
        raise FileNotFoundError(
            f"no heartbeat in {workdir}; --workdir is the folder of a training run"
        )
    now = time.time()
    for each in found:
        print(line(each, now, config.silent_seconds))
    if any(_state(each, now, config.silent_seconds)[1] for each in found):
        sys.exit(heartbeat.STALLED_EXIT_CODE)


def line(beat: dict[str, Any], now: float, silent_seconds: float) -> str:
    """Returns a heartbeat as a line for a person.

    Args:
      beat: as `heartbeat.read` gives it.
      now: seconds since 1970.
      silent_seconds: age from which a running host counts as silent.
    """
    parts = [_state(beat, now, silent_seconds)[0]]
    parts.append(f"step {beat['step']:,} of {beat['num_steps']:,}")
    if "loss" in beat:
        parts.append(f"loss {beat['loss']:.4g}")
    if "tokens_per_second" in beat:
        parts.append(f"{beat['tokens_per_second']:,.0f} tokens/s")
    if "utilisation" in beat:
        parts.append(f"utilisation {beat['utilisation']:.0%}")
    if beat.get("last_checkpoint") is not None:
        parts.append(f"checkpoint {beat['last_checkpoint']:,}")
    for name in ("failed_saves", "late_saves"):
        if beat.get(name):  # 0, or of a program that did not count them
            parts.append(f"{beat[name]:,} {name.replace('_', ' ')}")
    if beat.get("seconds_left"):
        parts.append(f"{_span(beat['seconds_left'])} left")
    if "goodput" in beat:
        parts.append(f"goodput {beat['goodput']:.0%}")
    return f"host {beat['host']}: {', '.join(parts)}"


def _state(beat: dict[str, Any], now: float, silent_seconds: float) -> tuple[str, bool]:
    """A host's state in words, and whether somebody should act on it."""
    age = now - beat["time"]
    if beat["state"] == "running" and age > silent_seconds:
        return f"silent for {_span(age)}", True
    return beat["state"], beat["state"] == "stalled"


def _span(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
