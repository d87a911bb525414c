"""What an output is worth that does not know the prompt, and whether a gain is chance.

A score is a function of what was asked and what was made, 1 right and 0 wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Score = Callable[[Any, Any], float]
_MAX_CONSTANTS = 100  # tried as the one output for every prompt


def mean(score: Score, asked: Sequence[Any], made: Sequence[Any]) -> float:
    """The mean score; 0 without cases."""
    values = [score(*pair) for pair in zip(asked, made, strict=True)]
    return sum(values) / max(1, len(values))


def guess(
    score: Score, asked: Sequence[Any], made: Sequence[Any], constants: Sequence[Any]
) -> float:
    """The better of: every prompt given the next one's output; the best constant.

        asked [a b b]  made [a b b]  constants [a b]
        shuffled [b b a] -> 1/3      constant b -> 2/3      guess 2/3

    Args:
      score: Of one case.
      asked: What was asked, in an order that has nothing to do with it.
      made: What was made.
      constants: Outputs to try on every case; the first hundred are.
    """
    shuffled = mean(score, asked, [*made[1:], *made[:1]])
    constant = max(
        (
            mean(score, asked, [each] * len(asked))
            for each in constants[:_MAX_CONSTANTS]
        ),
        default=0.0,
    )
    return max(shuffled, constant)


def measured(
    key: str,
    score: Score,
    asked: Sequence[Any],
    made: Sequence[Any],
    constants: Sequence[Any],
) -> dict[str, float]:
    """Returns the mean score under `key`, and `guess` under `{key}_guess`."""
    return {
        key: mean(score, asked, made),
        f"{key}_guess": guess(score, asked, made, constants),
    }


def guess_by_kind(
    score: Score,
    asked: Sequence[Any],
    made: Sequence[Any],
    kinds: Sequence[str],
    constants: Sequence[Any],
) -> float:
    """As `guess`, with a constant for every kind of prompt: it may read the prompt."""
    right = 0.0
    for kind in sorted(set(kinds)):
        members = [index for index, each in enumerate(kinds) if each == kind]
        right += len(members) * guess(
            score,
            [asked[index] for index in members],
            [made[index] for index in members],
            constants,
        )
    return right / max(1, len(asked))


def paired_p_value(differences: np.ndarray) -> float:
    """How likely a mean this large or larger is by chance: one-sided, by the t statistic.

    The normal distribution stands in for Student's: use thirty pairs or more.

    Args:
      differences: float[n], positive where the effect shows.
    """
    differences = np.asarray(differences, np.float64)
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    if spread == 0:
        return 0.0 if len(differences) and differences.mean() > 0 else 1.0
    statistic = differences.mean() / (spread / math.sqrt(len(differences)))
    return 0.5 * math.erfc(statistic / math.sqrt(2))


# Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1.
_STUDENT_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL_95 = 1.96


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of repeated runs, and half of its 95 % interval, by Student's t.

    values [1 2 3]    mean 2, half 4.303 * 1 / sqrt(3) = 2.48

    Args:
      values: One a run, with its own seed; of a single one the half is nan.

    Raises:
      ValueError: If there is none.
    """
    count = len(values)
    if not count:
        raise ValueError("no run to take the mean of")
    mean = float(np.mean(values))
    if count == 1:
        return mean, math.nan
    degrees = count - 1
    few = degrees <= len(_STUDENT_95)
    quantile = _STUDENT_95[degrees - 1] if few else _NORMAL_95
    return mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count)
