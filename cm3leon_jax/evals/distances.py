"""How far drawn pictures are, as a crowd, from real ones; all sums in float64.

    frechet          between Gaussians of features; on Inception's 2,048 it is the FID
    kernel           KID: unbiased squared MMD, a cubic kernel, means over subsets
    cmmd             squared MMD of CLIP's vectors, a Gaussian kernel, times 1,000
    inception_score  how sure and how varied Inception's classes are
    clip_score       100 times the cosine of picture and caption, not below 0

Of which features a number is, its name must say: only Inception's is called FID.

Letters: N, M pictures, E features, K classes.

Source: FID, Heusel et al., arXiv:1706.08500; KID, Binkowski et al., arXiv:1801.01401;
CMMD, Jayasumana et al., arXiv:2401.09603; Inception score, Salimans et al.,
arXiv:1606.03498; CLIPScore, Hessel et al., arXiv:2104.08718 (without its factor 2.5).
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

KID_SUBSETS, KID_SIZE = 100, 1_000  # torch-fidelity's defaults
_CMMD_SIGMA, _CMMD_SCALE = 10.0, 1_000.0
_SPLITS = 10  # of the Inception score


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features.

    Attributes:
      mean_E: float64[E].
      covariance_EE: float64[E, E], divided by N - 1.
    """

    mean_E: np.ndarray
    covariance_EE: np.ndarray

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.mean_E)


def statistics(features_NE: np.ndarray) -> Statistics:
    """Returns the statistics of features float[N, E].

    Raises:
      ValueError: If there are fewer than two rows, or a value is not finite.
    """
    features_NE = np.asarray(features_NE, np.float64)
    if features_NE.ndim != 2 or len(features_NE) < 2:
        raise ValueError(
            f"features of shape {features_NE.shape} must be at least two rows of one"
            " width"
        )
    if not np.isfinite(features_NE).all():
        raise ValueError("features must be finite; a picture gave nan or infinity")
    mean_E = features_NE.mean(axis=0)
    centred_NE = features_NE - mean_E
    return Statistics(mean_E, centred_NE.T @ centred_NE / (len(features_NE) - 1))


def read_statistics(path: str | os.PathLike[str], dim: int) -> Statistics:
    """Reads an `.npz` with `mu` and `sigma`, as pytorch-fid writes it.

    Args:
      path: The file.
      dim: Width of the features that it is compared with.

    Raises:
      ValueError: If arrays are missing, of another shape, or of other features.
    """
    with np.load(path) as arrays:
        missing = [name for name in ("mu", "sigma") if name not in arrays]
        if missing:
            raise ValueError(f"{path} lacks {missing}; it must hold `mu` and `sigma`")
        mean_E, covariance_EE = (np.asarray(arrays[n], float) for n in ("mu", "sigma"))
    if mean_E.shape != (dim,) or covariance_EE.shape != (dim, dim):
        raise ValueError(
            f"{path} has statistics of shape {mean_E.shape} and {covariance_EE.shape};"
            f" the features have width {dim}: compare features of one network"
        )
    return Statistics(mean_E, covariance_EE)


def write_statistics(path: str | os.PathLike[str], found: Statistics) -> None:
    """Writes an `.npz` that pytorch-fid and `read_statistics` read."""
    np.savez(path, mu=found.mean_E, sigma=found.covariance_EE)


def frechet(a: Statistics, b: Statistics) -> float:
    """Returns the squared Frechet distance of two Gaussians.

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2)`. The trace of the root is the sum of
    the roots of the eigenvalues of `C_a^1/2 C_b C_a^1/2`, which is symmetric, so that no
    complex numbers and no small diagonal are needed where C is singular.

    Raises:
      ValueError: If the widths differ.
    """
    if a.dim != b.dim:
        raise ValueError(
            f"statistics of {a.dim} and of {b.dim} features cannot be compared; use"
            " those of one network"
        )
    values_E, vectors_EE = np.linalg.eigh(a.covariance_EE)
    root_EE = (vectors_EE * np.sqrt(np.maximum(values_E, 0.0))) @ vectors_EE.T
    product_EE = root_EE @ b.covariance_EE @ root_EE
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(product_EE), 0.0)).sum()
    traces = np.trace(a.covariance_EE) + np.trace(b.covariance_EE)
    apart = ((a.mean_E - b.mean_E) ** 2).sum()
    return float(max(0.0, apart + traces - 2 * shared))


def kernel(
    a_NE: np.ndarray,
    b_ME: np.ndarray,
    *,
    num_subsets: int = KID_SUBSETS,
    subset_size: int = KID_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the mean and the standard deviation of KID over random subsets.

    Args:
      a_NE: float[N, E].
      b_ME: float[M, E].
      num_subsets: How many are drawn.
      subset_size: Pictures in each, of both sides; all, if there are fewer.
      seed: Of the draws.

    Raises:
      ValueError: If the widths differ, or a side has fewer than two pictures.
    """
    _check_widths(a_NE, b_ME)
    size = min(subset_size, len(a_NE), len(b_ME))
    if size < 2:
        raise ValueError(f"KID needs two pictures a side, got {len(a_NE)}, {len(b_ME)}")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (
            np.asarray(one[rng.choice(len(one), size, replace=False)], np.float64)
            for one in (a_NE, b_ME)
        )
        within = [_cubic(one, one) for one in (x, y)]
        off = [(k.sum() - np.trace(k)) / (size * (size - 1)) for k in within]
        values.append(sum(off) - 2 * _cubic(x, y).mean())
    return float(np.mean(values)), float(np.std(values))


def cmmd(a_NE: np.ndarray, b_ME: np.ndarray) -> float:
    """Returns CMMD of unit vectors, as its authors' code: biased, sigma 10, times 1,000.

    Args:
      a_NE: float[N, E], of real pictures.
      b_ME: float[M, E], of drawn ones.

    Raises:
      ValueError: If the widths differ.
    """
    _check_widths(a_NE, b_ME)
    a, b = np.asarray(a_NE, np.float64), np.asarray(b_ME, np.float64)
    parts = _gaussian(a, a) + _gaussian(b, b) - 2 * _gaussian(a, b)
    return float(_CMMD_SCALE * parts)


def inception_score(probabilities_NK: np.ndarray) -> tuple[float, float]:
    """Returns mean and standard deviation over ten parts of exp of the mean divergence.

    Args:
      probabilities_NK: float[N, K], rows that sum to 1, in an order by chance.

    Raises:
      ValueError: If there are fewer pictures than parts.
    """
    if len(probabilities_NK) < _SPLITS:
        raise ValueError(
            f"{len(probabilities_NK)} pictures are too few for {_SPLITS} parts"
        )
    scores = []
    for part in np.array_split(np.asarray(probabilities_NK, np.float64), _SPLITS):
        mean_K = part.mean(axis=0)
        log_part = np.log(np.maximum(part, 1e-300))
        log_mean = np.log(np.maximum(mean_K, 1e-300))
        divergence = (part * (log_part - log_mean)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


def clip_score(picture_NE: np.ndarray, text_NE: np.ndarray) -> float:
    """Returns 100 times the mean cosine of unit vectors, each not below 0.

    Args:
      picture_NE: float[N, E].
      text_NE: float[N, E], of the captions that were drawn from.
    """
    _check_widths(picture_NE, text_NE)
    pictures, texts = (np.asarray(x, np.float64) for x in (picture_NE, text_NE))
    return float(100 * np.maximum((pictures * texts).sum(axis=1), 0).mean())


def _cubic(a_NE: np.ndarray, b_ME: np.ndarray) -> np.ndarray:
    return (a_NE @ b_ME.T / a_NE.shape[1] + 1) ** 3


def _gaussian(a_NE: np.ndarray, b_ME: np.ndarray, rows: int = 1_024) -> float:
    """The mean of the kernel over all pairs, some rows at a time."""
    total, squares_M = 0.0, (b_ME**2).sum(axis=1)
    for start in range(0, len(a_NE), rows):
        part = a_NE[start : start + rows]
        squares = (part**2).sum(axis=1)[:, None] + squares_M - 2 * part @ b_ME.T
        total += np.exp(-np.maximum(squares, 0) / (2 * _CMMD_SIGMA**2)).sum()
    return total / (len(a_NE) * len(b_ME))


def _check_widths(a_NE: np.ndarray, b_ME: np.ndarray) -> None:
    if a_NE.ndim != 2 or b_ME.ndim != 2 or a_NE.shape[1] != b_ME.shape[1]:
        raise ValueError(
            f"features {a_NE.shape} and {b_ME.shape} must be rows of one width; use one"
            " network for both"
        )
