"""The fixed texts of the tasks, for a tokenizer that must know their words.

A tokenizer trained on books knows `Question:` and `location`; one trained on a small
folder of captions spells them, and every example gets twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence

from cm3leon_jax.tasks import table


def texts(tasks: Sequence[str]) -> list[str]:
    """Returns the templates of some tasks, with nothing filled in but box corners.

    Args:
      tasks: Names of tasks.

    Raises:
      ValueError: If a task is unknown.
    """
    parts = [
        part for task in [table.get(name) for name in tasks] for part in task.TEXTS
    ]
    found = [part for part in parts if isinstance(part, str) and part.strip()]
    return list(dict.fromkeys(found))
