"""Every task by its name: a file of this room that has a `NAME` is one.

A new task is a new file here and a line in a config
(`--config.tokenise.tasks.my_task.caption_share=1.0`, or an empty dict in the file). The
file says:

    NAME           of the task, of its set of shards, and of the file
    examples       a `TaskRow` and a generator to training examples; further keyword
                   arguments are the options that a config may set
    TEXTS          its fixed words, its variables filled with nothing: for tokenizers
                   that are trained on little, and to find misspelt variables
    OTHERS         columns that name further pictures
    READERS        formats (`data/sources/inputs.py`) that its public data come in
    NUM_EXAMPLES   of the paper's data set
    METRIC         the number that it is measured by (`evals`)

and, where text is asked for, `prompt` (the same parts with a `Hole`) and `parse`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import cm3leon_jax.tasks
from cm3leon_jax.documents.example import Example

PAPER = (  # the eighteen rows of CM3Leon's Table 5, in its order
    "edit",
    "writing",
    "layout",
    "edges",
    "segmentation",
    "hed",
    "pose",
    "depth",
    "normals",
    "scribble",
    "coco",
    "flickr30k",
    "paragraph",
    "narratives",
    "vqa2",
    "vizwiz",
    "okvqa",
    "scienceqa",
)


_VARIABLE = re.compile(r"\{\w+\}")


class AbstractTask(Protocol):
    """A module that is a task."""

    NAME: str
    READERS: tuple[str, ...]
    NUM_EXAMPLES: int
    METRIC: str
    OTHERS: tuple[str, ...]
    TEXTS: tuple[Any, ...]
    examples: Callable[..., list[Example]]


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all tasks, in order of the alphabet."""
    found = sorted(one.name for one in pkgutil.iter_modules(cm3leon_jax.tasks.__path__))
    return tuple(name for name in found if hasattr(_module(name), "READERS"))


def get(name: str) -> AbstractTask:
    """Returns the task of a name.

    Raises:
      ValueError: If there is none, naming those that there are.
    """
    if name not in names():
        raise ValueError(f"no task {name!r}; known: {', '.join(names())}")
    return _module(name)


def check(tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses unknown tasks, options and template variables, before any work.

    Args:
      tasks: Options by the name of the task.

    Raises:
      ValueError: Naming the task or option, and the known ones; or a variable that a
        template has and its task does not fill in.
    """
    for name, options in tasks.items():
        task = get(name)
        left = [_VARIABLE.search(part) for part in task.TEXTS if isinstance(part, str)]
        unknown = [found[0] for found in left if found]
        if unknown:
            raise ValueError(
                f"task {name!r} leaves {unknown[0]} in a template: it fills in no such"
                " variable; correct the spelling in its file"
            )
        parameters = inspect.signature(task.examples).parameters.values()
        known = [one.name for one in parameters if one.kind == one.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise ValueError(
                    f"task {name!r} has no option {option!r}; known:"
                    f" {', '.join(known) or '(none)'}"
                )


def _module(name: str) -> Any:
    return importlib.import_module(f"cm3leon_jax.tasks.{name}")
