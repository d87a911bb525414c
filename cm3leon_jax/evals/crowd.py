"""Drawn pictures as a crowd beside real ones: every number that needs features.

With Inception's weights the Frechet distance is the FID. Without, a bi-encoder stands in,
and the number's name says so: `frechet_clip`; without any network plain statistics of
blocks do, `frechet_blocks`. It must not be the one that picked the best
drawing of several, which would measure its own taste.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from cm3leon_jax.convert import inception as weights
from cm3leon_jax.evals import distances
from cm3leon_jax.evals.distances import Statistics
from cm3leon_jax.models import inception

BATCH = 64  # pictures that a network is given at once
_CELLS = 4  # cells a side of the pictures' features without a network


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What turns pictures into features.

    Attributes:
      name: `fid` of Inception, `frechet_...` of anything else: of the distance.
      encode: From uint8[n, Y, X, 3] to float[n, E], and to probabilities of classes
        float[n, K] or None.
    """

    name: str
    encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of some pictures, float32[N, E], and probabilities [N, K] or None."""

    features_NE: np.ndarray
    probabilities_NK: np.ndarray | None


def from_inception(path: str | os.PathLike[str]) -> Encoder:
    """Returns the FID's encoder with the weights of a file."""
    model = weights.read(path)

    @jax.jit
    def run(net: inception.Inception, pictures: jax.Array):
        features, logits = net(inception.prepare(pictures))
        return features, jax.nn.softmax(logits)

    def encode(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        features, probabilities = run(model, pictures)
        return np.asarray(features), np.asarray(probabilities)

    return Encoder("fid", encode)


def from_vectors(
    embed_pictures: Callable[[np.ndarray], np.ndarray], name: str
) -> Encoder:
    """Returns an encoder of a bi-encoder's unit vectors; never called FID."""
    return Encoder(f"frechet_{name}", lambda shown: (embed_pictures(shown), None))


def from_blocks() -> Encoder:
    """Returns an encoder that needs no network; see `blocks`."""
    return Encoder("frechet_blocks", lambda shown: (blocks(shown), None))


def blocks(pictures_NYXC: np.ndarray) -> np.ndarray:
    """Returns plain statistics of pictures, in place of a network's features.

    Of each of 4 x 4 cells and each colour: the mean, the standard deviation, and the mean
    absolute step from a pixel to the next one to the right and below. They see blur,
    noise, and colours and edges that are missing, and know nothing of what is shown.

    Args:
      pictures_NYXC: uint8[N, Y, X, C], sides that are multiples of 4.

    Returns:
      float64[N, 4 * 4 * C * 4], of values in [0, 1].

    Raises:
      ValueError: If a side is no multiple of 4, or only 4.
    """
    values_NYXC = pictures_NYXC.astype(np.float64) / 255.0
    N, Y, X, C = values_NYXC.shape
    if Y % _CELLS or X % _CELLS or Y <= _CELLS or X <= _CELLS:
        raise ValueError(
            f"pictures of {Y} x {X} pixels must have sides that are multiples of"
            f" {_CELLS} and larger; resize them"
        )
    cells = values_NYXC.reshape(N, _CELLS, Y // _CELLS, _CELLS, X // _CELLS, C)
    found = (
        cells.mean(axis=(2, 4)),
        cells.std(axis=(2, 4)),
        np.abs(np.diff(cells, axis=2)).mean(axis=(2, 4)),
        np.abs(np.diff(cells, axis=4)).mean(axis=(2, 4)),
    )
    return np.stack(found, axis=-1).reshape(N, -1)


def features(pictures: Iterable[np.ndarray], encoder: Encoder) -> Features:
    """Encodes pictures uint8[Y, X, 3] of one size, some at a time.

    Raises:
      ValueError: If there is none.
    """
    parts = [encoder.encode(batch) for batch in _batches(pictures)]
    if not parts:
        raise ValueError("no pictures to measure; is the folder empty?")
    classes = [part for _, part in parts if part is not None]
    return Features(
        np.concatenate([part for part, _ in parts]),
        np.concatenate(classes) if classes else None,
    )


def evaluate(
    drawn: Features, real: Features | Statistics, name: str, *, seed: int = 0
) -> dict[str, float]:
    """Returns the Frechet distance under its name, and KID and Inception score if known.

    Args:
      drawn: Of the drawn pictures.
      real: Of the real ones; KID needs them one by one.
      name: `Encoder.name`.
      seed: Of KID's subsets.
    """
    is_whole = isinstance(real, Features)
    theirs = distances.statistics(real.features_NE) if is_whole else real
    ours = distances.statistics(drawn.features_NE)
    found = {name: distances.frechet(ours, theirs)}
    suffix = "" if name == "fid" else f"_{name.removeprefix('frechet_')}"
    if is_whole:
        mean, spread = distances.kernel(drawn.features_NE, real.features_NE, seed=seed)
        found |= {f"kid{suffix}": mean, f"kid{suffix}_std": spread}
    if drawn.probabilities_NK is not None:
        order = np.random.default_rng(seed).permutation(len(drawn.probabilities_NK))
        mean, spread = distances.inception_score(drawn.probabilities_NK[order])
        found |= {"inception_score": mean, "inception_score_std": spread}
    return found


def with_texts(
    drawn_NE: np.ndarray, real_NE: np.ndarray | None, text_NE: np.ndarray, name: str
) -> dict[str, float]:
    """Returns CLIP score and CMMD of a bi-encoder's unit vectors, its name behind.

    Args:
      drawn_NE: float[N, E], of drawn pictures.
      real_NE: float[M, E], of real ones, or None.
      text_NE: float[N, E], of the captions.
      name: Of the bi-encoder; CLIP's own needs none.
    """
    suffix = f"_{name}" if name else ""
    found = {f"clip_score{suffix}": distances.clip_score(drawn_NE, text_NE)}
    if real_NE is not None:
        found[f"cmmd{suffix}"] = distances.cmmd(real_NE, drawn_NE)
    return found


def by_group(
    drawn_NE: np.ndarray, text_NE: np.ndarray, groups: Sequence[str], name: str
) -> dict[str, float]:
    """Returns the CLIP score of every group's drawings, as `{name}/{group}`.

    Args:
      drawn_NE: float[N, E], unit vectors of drawn pictures.
      text_NE: float[N, E], of the captions.
      groups: Of each drawing; empty where there is none.
      name: Of the bi-encoder.
    """
    found: dict[str, float] = {}
    for group in sorted(set(groups) - {""}):
        own_N = np.array([one == group for one in groups])
        scores = with_texts(drawn_NE[own_N], None, text_NE[own_N], name)
        found[f"num_cases/{group}"] = float(own_N.sum())
        found |= {f"{key}/{group}": value for key, value in scores.items()}
    return found


def shares(
    drawn_NE: np.ndarray,
    real_NE: np.ndarray,
    prompt_GE: np.ndarray,
    prompts: Sequence[str],
) -> dict[str, float]:
    """Returns how many drawn pictures, and how many of the data, each prompt is nearest.

    A model trained on pictures carries their bias; where `share_drawn` leaves
    `share_data` behind, it makes it stronger.

    Args:
      drawn_NE: float[N, E], unit vectors of drawn pictures.
      real_NE: float[M, E], of the data's.
      prompt_GE: float[G, E], of descriptions of the groups.
      prompts: Their G texts.
    """
    found: dict[str, float] = {}
    for side, seen_NE in (("drawn", drawn_NE), ("data", real_NE)):
        nearest_N = (seen_NE @ prompt_GE.T).argmax(axis=1)
        for index, prompt in enumerate(prompts):
            found[f"share_{side}/{prompt}"] = float((nearest_N == index).mean())
    return found


def check_judge(num_samples: int, reranker: str, judge: str) -> None:
    """Refuses a judge that picked the drawings itself.

    Raises:
      ValueError: If the best of several was picked by the very encoder that judges.
    """
    if num_samples > 1 and reranker == judge:
        raise ValueError(
            f"the bi-encoder that picked the best of {num_samples} drawings may not"
            " judge them; give Inception's weights or another judge"
        )


def _batches(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
