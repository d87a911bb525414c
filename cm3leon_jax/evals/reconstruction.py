"""How near reconstructed pictures are to their originals, and how many codes are used.

Letters: N pictures, Y and X rows and columns, C colours, P codes a picture.
"""

from collections.abc import Callable

import jax
import numpy as np

from cm3leon_jax.evals import crowd, distances
from cm3leon_jax.models import lpips as lpips_lib
from cm3leon_jax.train import perceptual

_AT_ONCE = 16  # pairs of pictures that are compared in one pass
_WINDOW = 8  # pixels a side of the blocks that SSIM compares
_LUMINANCE, _CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # SSIM, section III.B


def evaluate(
    originals_NYXC: np.ndarray,
    reconstructions_NYXC: np.ndarray,
    codes_NP: np.ndarray,
    codebook_size: int,
) -> dict[str, float]:
    """Compares pictures with their reconstructions.

    Args:
      originals_NYXC: uint8[N, Y, X, 3].
      reconstructions_NYXC: uint8[N, Y, X, 3].
      codes_NP: int[N, P], the codes between them.
      codebook_size: number of codes that there are.

    Returns:
      `psnr` (decibels, mean over pictures), `ssim`, `l1` (mean absolute difference in
      0 to 255), `usage` (share of the codebook that occurs), `perplexity` (of codes).
    """
    counts = np.bincount(codes_NP.reshape(-1), minlength=codebook_size)
    return {
        "psnr": float(psnr(originals_NYXC, reconstructions_NYXC).mean()),
        "ssim": float(ssim(originals_NYXC, reconstructions_NYXC).mean()),
        "l1": float(
            np.abs(
                originals_NYXC.astype(np.float32)
                - reconstructions_NYXC.astype(np.float32)
            ).mean()
        ),
        "usage": float((counts > 0).mean()),
        "perplexity": perplexity(counts),
    }


def psnr(a_NYXC: np.ndarray, b_NYXC: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of each pair in decibels.

    Equal pictures have no noise; they count as if one value of 255 were off by one in
    a picture of a thousand pixels, so that a mean stays finite.

    Args:
      a_NYXC: uint8[N, Y, X, C].
      b_NYXC: uint8[N, Y, X, C].

    Returns:
      float64[N].
    """
    difference_NYXC = a_NYXC.astype(np.float64) - b_NYXC.astype(np.float64)
    error_N = np.maximum((difference_NYXC**2).mean(axis=(1, 2, 3)), 1e-3)
    return 10 * np.log10(255**2 / error_N)


def ssim(a_NYXC: np.ndarray, b_NYXC: np.ndarray) -> np.ndarray:
    """Returns the structural similarity of each pair, over blocks of 8 pixels.

    Blocks do not overlap and are not weighted, where the original slides a Gaussian
    window of 11: a little coarser, many times faster.

    Args:
      a_NYXC: uint8[N, Y, X, C], sides that are multiples of 8.
      b_NYXC: uint8[N, Y, X, C].

    Returns:
      float64[N], at most 1.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural
      Similarity, 2004, equation 13.
    """
    a, b = _blocks(a_NYXC), _blocks(b_NYXC)
    mean_a, mean_b = a.mean(axis=(2, 4)), b.mean(axis=(2, 4))
    variance_a, variance_b = a.var(axis=(2, 4)), b.var(axis=(2, 4))
    covariance = (a * b).mean(axis=(2, 4)) - mean_a * mean_b
    above = (2 * mean_a * mean_b + _LUMINANCE) * (2 * covariance + _CONTRAST)
    below = (mean_a**2 + mean_b**2 + _LUMINANCE) * (variance_a + variance_b + _CONTRAST)
    return (above / below).mean(axis=(1, 2, 3))


def lpips(a_NYXC: np.ndarray, b_NYXC: np.ndarray, network: lpips_lib.Lpips) -> float:
    """Returns the mean LPIPS distance of pairs, a few at a time.

    Args:
      a_NYXC: uint8[N, Y, X, 3].
      b_NYXC: uint8[N, Y, X, 3].
      network: with its trained weights.
    """
    distance = jax.jit(lambda network, a, b: network(a, b))
    return _mean(lambda a, b: distance(network, a, b), a_NYXC, b_NYXC)


def gradient_pyramid(a_NYXC: np.ndarray, b_NYXC: np.ndarray) -> float:
    """Returns the mean of LPIPS' stand-in over pairs, see `train/perceptual.py`.

    Args:
      a_NYXC: uint8[N, Y, X, C], sides that are multiples of 4.
      b_NYXC: uint8[N, Y, X, C].
    """
    each = jax.jit(jax.vmap(lambda a, b: perceptual.gradient_pyramid(a[None], b[None])))
    return _mean(each, a_NYXC, b_NYXC)


def frechet(
    originals_NYXC: np.ndarray,
    reconstructions_NYXC: np.ndarray,
    encoder: crowd.Encoder,
) -> dict[str, float]:
    """Returns the reconstructions' Frechet distance from the originals, by its name.

    With Inception's weights it is what papers call the reconstruction FID. Few pictures
    make it too large: compare numbers of equally many.

    Args:
      originals_NYXC: uint8[N, Y, X, 3], two at least.
      reconstructions_NYXC: uint8[N, Y, X, 3].
      encoder: of which features; names the number.
    """
    sides = (
        distances.statistics(crowd.features(shown, encoder).features_NE)
        for shown in (originals_NYXC, reconstructions_NYXC)
    )
    return {encoder.name: distances.frechet(*sides)}


def _mean(distance: Callable, a_NYXC: np.ndarray, b_NYXC: np.ndarray) -> float:
    """The mean of a distance of pairs: float[n, Y, X, C] in [-1, 1] twice -> float[n].

    All passes have one size, so that one program serves them.
    """
    missing = -len(a_NYXC) % _AT_ONCE
    signed = lambda x: np.pad(x, [(0, missing), *[(0, 0)] * 3]) / np.float32(127.5) - 1
    pair = signed(a_NYXC), signed(b_NYXC)
    each = [
        np.asarray(distance(*(x[i : i + _AT_ONCE] for x in pair)))
        for i in range(0, len(pair[0]), _AT_ONCE)
    ]
    return float(np.concatenate(each)[: len(a_NYXC)].mean())


def perplexity(counts_C: np.ndarray) -> float:
    """Returns how many equally frequent codes would be as hard to guess.

    Args:
      counts_C: int[C], how often each code occurs.
    """
    share_C = counts_C[counts_C > 0] / counts_C.sum()
    return float(np.exp(-(share_C * np.log(share_C)).sum()))


def _blocks(pictures_NYXC: np.ndarray) -> np.ndarray:
    """float64[N, Y/8, 8, X/8, 8, C]."""
    N, Y, X, C = pictures_NYXC.shape
    side = _WINDOW
    return pictures_NYXC.astype(np.float64).reshape(
        N, Y // side, side, X // side, side, C
    )
