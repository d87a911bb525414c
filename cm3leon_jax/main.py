"""The one command: runs the job that a config names.

Usage:
    cm3leon --config configs/pretrain.py:350m,debug --workdir runs/debug
    python -m cm3leon_jax.main --config configs/vqgan.py --workdir runs/vqgan \
        --config.optimizer.peak_lr=3e-4

A mistake in a config, a file or a folder ends in one line on the terminal and exit
code 2; the full trace is kept in `<workdir>/error.log`.
"""

from __future__ import annotations

import importlib
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that the job writes.")

USAGE_EXIT_CODE = 2


def main(argv: Sequence[str]) -> None:
    """Runs the job; `argv` must hold nothing but the program's name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise app.UsageError("both --config and --workdir are needed")
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    logging.getLogger("jax").setLevel(logging.WARNING)
    config = _CONFIG.value
    job = importlib.import_module(f"cm3leon_jax.jobs.{config.job}")
    try:
        job.run(config, _WORKDIR.value)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(_report(error, _WORKDIR.value))
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def _report(error: Exception, workdir: str) -> int:
    """Prints one line for a person and keeps the trace for a developer."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    trace = pathlib.Path(workdir) / "error.log"
    kept = ""
    if trace.parent.is_dir():
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        kept = f" (trace: {trace})"
    print(f"error: {first}{kept}", file=sys.stderr)
    return USAGE_EXIT_CODE


def _flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags; a misspelt override or a missing file is one line."""
    # Configs import `configs.common`: found from the folder that the command runs in.
    sys.path.insert(0, os.getcwd())
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USAGE_EXIT_CODE)


def run() -> None:
    """The `cm3leon` command."""
    app.run(main, flags_parser=_flags)


if __name__ == "__main__":
    run()
