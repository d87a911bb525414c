"""How the hosts of a job share its work and wait for each other: by files alone.

Every host runs the same line. A unit of work (a shard, a run) leaves one file, written
atomically; who needs it waits until it is there. No host needs another to be alive at
the same moment, and an interrupted job goes on from the files.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

_LOGGER = logging.getLogger(__name__)
_SECONDS = 0.2  # between two looks
_SAY_SECONDS = 60.0  # between two lines that say what is waited for


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Which host of how many this is.

    Attributes:
      index: From 0.
      count: At least 1.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Hosts:
        """Returns which host this process is; call it before JAX is used.

        `CM3LEON_HOST` of `CM3LEON_HOSTS`, as for training (`train.meeting`), but nobody
        has to meet; else what the cluster ("auto") or the pod's runtime says.

        Raises:
          ValueError: If the environment is contradictory.
        """
        count = environment.get("CM3LEON_HOSTS", "")
        if count in ("", "auto"):
            # Imported here: whoever reads data needs no JAX.
            import jax

            from cm3leon_jax.train import meeting

            if count:
                meeting.join(environment)
            return cls(jax.process_index(), jax.process_count())
        index = environment.get("CM3LEON_HOST", "0" if count == "1" else "")
        if not count.isdigit() or not index.isdigit() or int(index) >= int(count):
            raise ValueError(
                f"CM3LEON_HOSTS={count!r} needs CM3LEON_HOST from 0 to {count} - 1, got"
                f" {index!r}; set both, or CM3LEON_HOSTS=auto on a TPU pod or under SLURM"
            )
        return cls(int(index), int(count))

    def share(self, number: int) -> range:
        """This host's units of `number`: a run of neighbours, all sizes within one.

        number 5, count 2    host 0: 0 1      host 1: 2 3 4
        """
        bounds = [number * each // self.count for each in (self.index, self.index + 1)]
        return range(*bounds)

    @property
    def is_first(self) -> bool:
        """Whether this host writes what is written once."""
        return self.index == 0


def wait(paths: Sequence[pathlib.Path], what: str) -> None:
    """Returns when all files are there; says now and then which is not.

    Args:
      paths: Files that this or other hosts write.
      what: Their name, for the line.
    """
    missing, said = list(paths), time.monotonic()
    while missing := [path for path in missing if not path.exists()]:
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            _LOGGER.info("waiting for %d %s, %s first", len(missing), what, missing[0])
        time.sleep(_SECONDS)
