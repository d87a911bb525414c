"""The one command: runs the job that a config names.

Usage:
    cm3leon --config configs/pretrain.py:350m,debug --workdir runs/debug
    python -m cm3leon_jax.main --config configs/vqgan.py --workdir runs/vqgan \
        --config.optimizer.peak_lr=3e-4

An error ends in one line on the terminal; the full trace is kept in
`<workdir>/error.log`. Exit codes say whether the same command may be started again:

    0          done
    2          a mistake in the command, a config, a file or a folder: mend it first
    3          numbers that are not finite, or too many bad steps: look first
    4          a checkpoint or a result could not be written: free the disk, start again
    5          the hosts did not meet in time, or one that was taken away may still hold
               the folder: start again on all of them
    6          no step ended in time, threads are in heartbeats/stall-*.txt: start again
    130, 143   stopped by SIGINT, SIGTERM; saved after the step: start again
    others     it crashed, or was killed: start again
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from cm3leon_jax import storage
from cm3leon_jax.jobs import folder

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the job writes.")

USAGE_EXIT_CODE = 2
NUMBERS_EXIT_CODE = 3
STORAGE_EXIT_CODE = 4
ABSENT_EXIT_CODE = 5
INTERRUPTED_EXIT_CODE = 130
# The first that an error is one of; a file that is not there is a mistake, a disk that
# is full is not.
_EXIT_CODES = (
    (FloatingPointError, NUMBERS_EXIT_CODE),
    ((TimeoutError, BlockingIOError), ABSENT_EXIT_CODE),
    ((FileNotFoundError, FileExistsError, NotADirectoryError), USAGE_EXIT_CODE),
    (OSError, STORAGE_EXIT_CODE),
    (ValueError, USAGE_EXIT_CODE),
)
_QUOTES = "\"'\\"


def main(argv: Sequence[str]) -> None:
    """Runs the job; `argv` must hold nothing but the program's name."""
    if len(argv) > 1:
        sys.exit(_refuse(f"unexpected arguments {argv[1:]}; flags begin with --"))
    if flags.FLAGS["config"].value is None or _WORKDIR.value is None:
        sys.exit(_refuse("both --config and --workdir are needed"))
    _log()
    config = _CONFIG.value
    try:
        name = config.job
    except OSError:  # what could not be read says so when it is first asked
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        sys.exit(_refuse(f"no config file {path}; see the folder configs/"))
    if "://" in _WORKDIR.value and not (
        name in folder.BUCKET_JOBS and storage.is_in_bucket(_WORKDIR.value)
    ):
        sys.exit(
            _refuse(
                f"--workdir {_WORKDIR.value} is no folder, and the job {name!r} needs"
                " one: mount the bucket (launch/README.md) and give the folder where it"
                f" is; in a bucket (gs://) work {', '.join(folder.BUCKET_JOBS)}"
            )
        )
    _keep_compiled(_WORKDIR.value)
    job = importlib.import_module(f"cm3leon_jax.jobs.{name}")
    try:
        storage.place(_WORKDIR.value)  # refuses where a package is missing
        job.run(config, _WORKDIR.value)
    except (ValueError, OSError, FloatingPointError) as error:
        _end(_report(error, _WORKDIR.value))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)


def _end(code: int) -> NoReturn:
    """Ends the process, at once if it could not write.

    Orbax leaves threads behind that wait many minutes for a folder that could not be
    made, and the interpreter would wait for them.
    """
    if code == STORAGE_EXIT_CODE:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _log() -> None:
    """Shows this package's messages, and of the libraries what is worth a warning."""
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("cm3leon_jax")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def _keep_compiled(workdir: str) -> None:
    """Lets JAX keep compiled programs, so that a job that goes on starts at once.

    JAX reads the variable when it is imported, which only jobs do.
    """
    if not storage.is_in_bucket(workdir):
        workdir = os.path.abspath(workdir)
    cache = f"{workdir}/{folder.COMPILE_CACHE}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)


def _report(error: Exception, workdir: str) -> int:
    """Prints one line for a person and keeps the trace for a developer."""
    kept = ""
    # The disk may be what is full, and the package for buckets what is missing.
    with contextlib.suppress(OSError, ValueError):
        trace = storage.place(workdir) / folder.ERROR_LOG
        if trace.parent.is_dir():
            storage.write_bytes(trace, traceback.format_exc().encode())
            kept = f" (trace: {trace})"
    lines = str(error).strip().splitlines() or [repr(error)]
    _refuse(f"{lines[0]}{kept}")
    return next(code for kinds, code in _EXIT_CODES if isinstance(error, kinds))


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_EXIT_CODE


def _flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags; a misspelt override or a missing file is one line."""
    # Configs import `configs.common`: found from the folder that the command runs in.
    sys.path.insert(0, os.getcwd())
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:  # ends with the innermost error's own line
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(_refuse(lines[-1].removeprefix("ValueError: ")))
    except (KeyError, AttributeError) as error:  # an unknown field
        # ml_collections' text, quoted once or twice, ends with the nearest field.
        name, _, hint = str(error).replace("\\n", "\n").strip(_QUOTES).partition("\n")
        sys.exit(_refuse(f"the config has no field {name.strip(_QUOTES)!r}. {hint}"))
    except (TypeError, ValueError, OSError) as error:
        sys.exit(_refuse(str(error)))


def run() -> None:
    """The `cm3leon` command."""
    app.run(main, flags_parser=_flags)


if __name__ == "__main__":
    run()
