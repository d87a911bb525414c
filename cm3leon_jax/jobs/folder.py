"""A job's folder: the resolved config, whether it is finished, who writes it.

    config.json   the resolved config, written first of all
    done.json     what came out, written last of all; its presence means: complete

Values of fields that are named as secrets are (`wandb_api_key`, `token`) are not
written.

A folder belongs to one config: a job that meets another one refuses, naming the fields.
As long as nothing was made in it, it takes the new config: a first command with a
mistake in it does not spoil the folder for the second.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from cm3leon_jax import storage

_LOGGER = logging.getLogger(__name__)
_CONFIG = "config.json"
DONE = "done.json"
ERROR_LOG = "error.log"
STAGES = "stages.json"
BUCKET_JOBS = ("train", "rehearse", "status")  # whose --workdir may be gs://
COMPILE_CACHE = "compile_cache"
REDACTED = "(not written: a secret)"
_SECRET = re.compile(
    r"(^|_)(token|secret|password|api_?key|credential)s?$", re.IGNORECASE
)
_NO_WORK = {_CONFIG, ERROR_LOG, STAGES}  # files that say nothing was made yet
_MAX_SHOWN = 8  # differing fields named in an error
# What programs did that had no such field, by job; folders of theirs are gone on with.
_NO_RULE = {"rule": ""}
_FORMER = {
    "convert": {"evaluations": []},
    "retrieve": {"strategy": _NO_RULE},
    "vqgan": {"features": {"inception": "", "embedder": ""}, "start_from": ""},
    "generate": {
        "precision": "trained",
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "sampling": _NO_RULE,
    },
    "recaption": {"sampling": _NO_RULE},
    "evaluate": {
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "drawing": _NO_RULE,
        "writing": _NO_RULE,
        "guided": _NO_RULE,
        "contrastive": _NO_RULE,
        "varied": _NO_RULE,
        "mixed": {
            "temperature": 0.8,
            "top_k": 0,
            "top_p": 1.0,
            "guidance": 1.0,
            "image_guidance": 1.0,
            "contrast_k": 0,
            "contrast_alpha": 0.5,
            "amateur_temperature": 1.0,
            "rule": "",
        },
        "benchmark": {"sampling": _NO_RULE},
    },
}


def start(config: ml_collections.ConfigDict, workdir: str) -> bool:
    """Claims a folder for a config.

    Returns:
      False if the job is already complete there (nothing is to be done).

    Raises:
      ValueError: If the folder was made with another config.
    """
    folder = storage.place(workdir)
    plain = resolved(config)
    if _holds_work(folder) and (folder / _CONFIG).exists():
        found = storage.read_json(folder / _CONFIG)
        former = _FORMER.get(plain.get("job"), {})
        differences = compare(filled(found, former, plain), plain)
        if differences:
            shown = "; ".join(differences[:_MAX_SHOWN])
            more = len(differences) - _MAX_SHOWN
            tail = f"; and {more} more" if more > 0 else ""
            raise ValueError(
                f"{workdir} was made with another config ({shown}{tail}); use another"
                " --workdir, or the config it was made with"
            )
    else:
        storage.write_json(folder / _CONFIG, plain)
    if (folder / DONE).exists():
        _LOGGER.info("%s is complete; nothing to do", workdir)
        return False
    return True


def finish(workdir: str, summary: dict[str, Any]) -> None:
    """Marks a job as complete, with the numbers that it wants remembered."""
    storage.write_json(storage.place(workdir) / DONE, summary)


def summary(workdir: str) -> dict[str, Any] | None:
    """What `finish` was given, or None if the job is not complete."""
    path = storage.place(workdir) / DONE
    return storage.read_json(path) if path.exists() else None


def filled(found: Any, former: Any, now: Any) -> Any:
    """A config with the fields of now that it lacks, as they formerly were."""
    if not all(isinstance(each, dict) for each in (found, former, now)):
        return found
    whole = {key: value for key, value in former.items() if key in now} | found
    return {
        key: filled(value, former.get(key), now.get(key))
        for key, value in whole.items()
    }


def compare(old: Any, new: Any, path: str = "config") -> list[str]:
    """Lists the fields in which two resolved configs differ, as `name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(key for key in new if key not in old)]:
            there = f"{path}.{key}"
            if key not in new:
                lines.append(f"{there}: {old[key]!r} -> (none)")
            elif key not in old:
                lines.append(f"{there}: (none) -> {new[key]!r}")
            else:
                lines += compare(old[key], new[key], there)
        return lines
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def check_shape(
    source: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Refuses a network to start from whose shape is not the config's.

    Args:
      source: where it is, for the message.
      theirs: the fields of its shape.
      ours: those of `config.model`.

    Raises:
      ValueError: naming the fields that differ.
    """
    differences = compare(theirs, ours, "model")
    if differences:
        raise ValueError(
            f"config.start_from={source} has another shape than config.model"
            f" ({'; '.join(differences[:_MAX_SHOWN])}); set config.model to that of the"
            " network, or start from another"
        )


def _holds_work(root: epath.Path) -> bool:
    """Whether a job has made anything below a folder."""
    if not root.is_dir():
        return False
    for path in root.iterdir():
        if path.is_dir():
            if path.name != COMPILE_CACHE and _holds_work(path):
                return True
        elif path.name not in _NO_WORK:
            return True
    return False


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the known name nearest to it, and all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def resolved(config: ml_collections.ConfigDict) -> Any:
    """The config as plain JSON values (tuples become lists), without secrets."""
    return _plain(config.to_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(key): REDACTED if item and _SECRET.search(str(key)) else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"config values must be plain JSON values, got {value!r}")
