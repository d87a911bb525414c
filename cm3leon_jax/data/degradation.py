"""Large pictures to small ones that look as if they had been through much.

What a super-resolution network learns to undo, by Real-ESRGAN's description: twice over,
blur, change of size, noise and JPEG; at the end ringing. Every choice is drawn anew for
every picture. numpy and Pillow only.

Letters: Y and X rows and columns, C = 3 colours, K rows and columns of a kernel.

Source: Real-ESRGAN, arXiv:2107.10833, section 3 and its released configuration. Kernels
are of six kinds there; here generalised and plateau ones are drawn without correlation
between the axes.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

_MAX_KERNEL = 21  # pixels a side; kernels have 7, 9, ... 21
_FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True)
class Round:
    """One of the two rounds.

    Attributes:
      blur_prob: of any blur.
      sinc_prob: of a kernel that rings, if there is blur.
      blur_sigma: least and largest deviation of a kernel in pixels.
      resize_probs: of growing, shrinking and staying.
      resize_range: least and largest factor.
      noise_range: least and largest deviation of Gaussian noise in levels of 255.
      poisson_range: least and largest strength of Poisson noise.
      gray_prob: of noise that is the same in all colours.
      jpeg_range: least and largest quality.
    """

    blur_prob: float = 1.0
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: tuple[float, float] = (0.15, 1.5)
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_range: tuple[float, float] = (0.05, 3.0)
    gray_prob: float = 0.4
    jpeg_range: tuple[int, int] = (30, 95)


@dataclasses.dataclass(frozen=True)
class DegradationConfig:
    """How pictures are made worse; the defaults are Real-ESRGAN's.

    Attributes:
      strength: 1 for the released numbers; less brings deviations, noise and factors of
        size nearer to none in proportion, 0 leaves a plain bicubic reduction.
      final_sinc_prob: of ringing at the end.
      first: the first round.
      second: the second.
    """

    strength: float = 1.0
    final_sinc_prob: float = 0.8
    first: Round = Round()
    second: Round = Round(
        blur_prob=0.8,
        blur_sigma=(0.2, 1.5),
        resize_probs=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        noise_range=(1.0, 25.0),
        poisson_range=(0.05, 2.5),
    )

    def __post_init__(self):
        """Refuses a strength beyond the described."""
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"{self.strength=} must lie in [0, 1]")


def degrade(
    picture_YXC: np.ndarray,
    scale: int,
    config: DegradationConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns a small, worse picture.

    Args:
      picture_YXC: uint8[Y, X, 3]; `scale` divides the sides.
      scale: how many times smaller a side becomes.
      config: how.
      rng: decides everything else.

    Returns:
      uint8[Y / scale, X / scale, 3].
    """
    strength = config.strength
    if strength == 0.0:
        return reduced(picture_YXC, scale)
    size = picture_YXC.shape[0] // scale, picture_YXC.shape[1] // scale
    pixels_YXC = _spoilt(picture_YXC.astype(np.float32), config.first, strength, rng)
    pixels_YXC = _jpeg(pixels_YXC, config.first, strength, rng)
    pixels_YXC = _spoilt(pixels_YXC, config.second, strength, rng)
    rings = rng.random() < config.final_sinc_prob * strength
    jpeg_first = rng.random() < 0.5
    if jpeg_first:
        pixels_YXC = _jpeg(pixels_YXC, config.second, strength, rng)
    pixels_YXC = _of_size(pixels_YXC, size, rng)
    if rings:
        pixels_YXC = filtered(pixels_YXC, _sinc(_side(rng), rng))
    if not jpeg_first:
        pixels_YXC = _jpeg(pixels_YXC, config.second, strength, rng)
    return np.clip(np.round(pixels_YXC), 0, 255).astype(np.uint8)


def reduced(picture_YXC: np.ndarray, scale: int) -> np.ndarray:
    """Returns a picture made smaller by bicubic interpolation, without aliasing."""
    size = (picture_YXC.shape[1] // scale, picture_YXC.shape[0] // scale)
    picture = Image.fromarray(picture_YXC).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)


def enlarged(picture_YXC: np.ndarray, scale: int) -> np.ndarray:
    """Returns a picture made larger by bicubic interpolation."""
    size = (picture_YXC.shape[1] * scale, picture_YXC.shape[0] * scale)
    picture = Image.fromarray(picture_YXC).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)


def filtered(pixels_YXC: np.ndarray, kernel_KK: np.ndarray) -> np.ndarray:
    """Returns a picture convolved with a kernel, mirrored at its edges.

    Args:
      pixels_YXC: float32[Y, X, C].
      kernel_KK: float[K, K], K odd.
    """
    half, (Y, X, _) = kernel_KK.shape[0] // 2, pixels_YXC.shape
    mode = "reflect" if min(Y, X) > half else "symmetric"
    padded = np.pad(pixels_YXC, ((half, half), (half, half), (0, 0)), mode=mode)
    sides = padded.shape[:2]
    product = (
        np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel_KK, sides)[:, :, None]
    )
    whole = np.fft.irfft2(product, sides, axes=(0, 1))
    return whole[2 * half :, 2 * half :].astype(np.float32)


def _spoilt(pixels_YXC, config: Round, strength: float, rng) -> np.ndarray:
    """Blur, another size, noise."""
    if rng.random() < config.blur_prob:
        pixels_YXC = filtered(pixels_YXC, _kernel(config, strength, rng))
    pixels_YXC = _resized(pixels_YXC, config, strength, rng)
    return _noisy(pixels_YXC, config, strength, rng)


def _side(rng: np.random.Generator) -> int:
    return int(2 * rng.integers(3, _MAX_KERNEL // 2 + 1) + 1)


def _kernel(config: Round, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draws a blur: float64[K, K], its sum 1."""
    side = _side(rng)
    if rng.random() < config.sinc_prob * strength:
        return _sinc(side, rng)
    low, high = config.blur_sigma
    sigmas = strength * rng.uniform(low, high, 2)
    kind = rng.choice(3, p=(0.7, 0.15, 0.15))  # Gaussian, generalised, plateau
    if rng.random() < 0.6:
        sigmas[1] = sigmas[0]  # round
    angle = rng.uniform(-np.pi, np.pi)
    rows, columns = np.indices((side, side)) - side // 2
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    square = (along / max(sigmas[0], 0.1)) ** 2 + (across / max(sigmas[1], 0.1)) ** 2
    if kind == 2:
        kernel = 1.0 / (1.0 + square ** rng.uniform(1.0, 2.0))
    else:
        kernel = np.exp(-0.5 * square ** (rng.uniform(0.5, 4.0) if kind else 1.0))
    return kernel / kernel.sum()


def _sinc(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draws an ideal low pass, cut off: it rings. float64[K, K], its sum 1.

    The circular low pass is a Bessel function; the product of two sincs rings alike and
    needs none.
    """
    cutoff = rng.uniform(1 / 3 if side < 13 else 1 / 5, 1.0)
    line = cutoff * np.sinc(cutoff * (np.arange(side) - side // 2))
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


def _resized(pixels_YXC, config: Round, strength: float, rng) -> np.ndarray:
    """Changes the size by a random factor."""
    low, high = config.resize_range
    direction = rng.choice(3, p=config.resize_probs)
    bounds = ((1.0, high), (low, 1.0), (1.0, 1.0))[direction]
    factor = rng.uniform(*bounds) ** strength
    size = [max(4, round(side * factor)) for side in pixels_YXC.shape[:2]]
    return _of_size(pixels_YXC, (size[0], size[1]), rng)


def _of_size(pixels_YXC, size: tuple[int, int], rng) -> np.ndarray:
    """Changes the size by one of three filters."""
    method = _FILTERS[rng.integers(len(_FILTERS))]
    planes = [
        Image.fromarray(plane).resize((size[1], size[0]), method)
        for plane in np.moveaxis(pixels_YXC, -1, 0)
    ]
    return np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1)


def _noisy(pixels_YXC, config: Round, strength: float, rng) -> np.ndarray:
    """Adds Gaussian or Poisson noise."""
    shape = pixels_YXC.shape
    if rng.random() < config.gray_prob:
        shape = (*shape[:2], 1)
    if rng.random() < 0.5:
        sigma = strength * rng.uniform(*config.noise_range)
        return pixels_YXC + rng.normal(0.0, sigma, shape).astype(np.float32)
    power = strength * rng.uniform(*config.poisson_range)
    light = np.clip(pixels_YXC, 0, 255)
    light = light if shape[-1] == 3 else light.mean(axis=-1, keepdims=True)
    noise = rng.poisson(light).astype(np.float32) - light
    return pixels_YXC + power * noise.astype(np.float32)


def _jpeg(pixels_YXC, config: Round, strength: float, rng) -> np.ndarray:
    """Writes a JPEG and reads it again."""
    worst, best = config.jpeg_range
    quality = round(100 - strength * (100 - rng.uniform(worst, best)))
    buffer = io.BytesIO()
    levels = np.clip(np.round(pixels_YXC), 0, 255).astype(np.uint8)
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.float32)
