"""How different two pictures look, as a whole and within boxes.

`gradient_pyramid` is the stand-in where no LPIPS weights are given; it is not LPIPS and
is never reported under that name.

Letters: B pictures, Y and X rows and columns, C channels, N boxes a picture, S rows and
columns of a crop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.models import lpips as lpips_lib

NUM_SCALES = 3


class Crops(NamedTuple):
    """Parts of pictures that count more than the rest: objects, faces.

    Attributes:
      boxes_BN4: float32[B, N, 4], x0, y0, x1, y1 as shares of the picture.
      weights_BN: float32[B, N], 0 where there is no box.
    """

    boxes_BN4: jax.Array | np.ndarray
    weights_BN: jax.Array | np.ndarray


def crop_loss(
    a_BYXC: jax.Array,
    b_BYXC: jax.Array,
    crops: Crops,
    size: int,
    lpips: lpips_lib.Lpips | None,
) -> jax.Array:
    """Returns the weighted difference within boxes.

    Over pictures it is the mean, over the boxes of a picture the sum. Every box is
    resized to the same size first, so that a small face counts as much as a large one. With LPIPS the difference is LPIPS, else the mean absolute difference
    and the gradient pyramid.

    Args:
      a_BYXC: float[B, Y, X, C] in [-1, 1].
      b_BYXC: float[B, Y, X, C] in [-1, 1].
      crops: which boxes.
      size: pixels a side of a resized box, a multiple of 4.
      lpips: the perceptual network, or None.

    Returns:
      float[].

    Source: Make-A-Scene, arXiv:2203.13131, section 3.2. There objects are compared by
    VGG features, as here with LPIPS, and faces by those of a network for faces, which
    are not public: here faces are compared as objects are, with a weight of their own.
    """
    a_BNSSC, b_BNSSC = (crop(x, crops.boxes_BN4, size) for x in (a_BYXC, b_BYXC))
    if lpips is not None:
        flat = (-1, *a_BNSSC.shape[2:])
        each_N = lpips(a_BNSSC.reshape(flat), b_BNSSC.reshape(flat))
        each_BN = each_N.reshape(a_BNSSC.shape[:2])
    else:
        pyramid = jax.vmap(jax.vmap(lambda a, b: gradient_pyramid(a[None], b[None])))
        absolute_BN = jnp.mean(jnp.abs(a_BNSSC - b_BNSSC), axis=(2, 3, 4))
        each_BN = absolute_BN + pyramid(a_BNSSC, b_BNSSC)
    return jnp.mean(jnp.sum(crops.weights_BN * each_BN, axis=1))


def crop(
    image_BYXC: jax.Array, boxes_BN4: jax.Array | np.ndarray, size: int
) -> jax.Array:
    """Returns boxes of pictures, resized bilinearly and without aliasing.

    Args:
      image_BYXC: float[B, Y, X, C].
      boxes_BN4: float[B, N, 4], x0, y0, x1, y1 as shares.
      size: pixels a side, S.

    Returns:
      float[B, N, S, S, C].
    """
    _, Y, X, _ = image_BYXC.shape
    rows_BNSY = _weights(boxes_BN4[..., 1], boxes_BN4[..., 3], size, Y)
    columns_BNSX = _weights(boxes_BN4[..., 0], boxes_BN4[..., 2], size, X)
    return jnp.einsum("bnsy,byxc,bntx->bnstc", rows_BNSY, image_BYXC, columns_BNSX)


def _weights(first_BN, last_BN, size: int, side: int) -> jax.Array:
    """What share each pixel of a side has in each of the S of a crop."""
    step_BN1 = (last_BN - first_BN)[..., None] * side / size
    at_BNS = first_BN[..., None] * side + _middles(size)[None, None] * step_BN1
    distance_BNSY = jnp.abs(at_BNS[..., None] - _middles(side)[None, None, None])
    reach_BN11 = jnp.maximum(step_BN1, 1.0)[..., None]
    weights_BNSY = jnp.maximum(0.0, 1.0 - distance_BNSY / reach_BN11)
    total_BNS1 = jnp.sum(weights_BNSY, axis=-1, keepdims=True)
    return weights_BNSY / jnp.maximum(total_BNS1, 1e-6)


def _middles(count: int) -> jax.Array:
    """The middles of so many pixels: 0.5, 1.5, ..."""
    return jnp.arange(count) + 0.5


def gradient_pyramid(a_BYXC: jax.Array, b_BYXC: jax.Array) -> jax.Array:
    """Returns the mean difference of the pictures' edges at full, half and quarter size.

    Blind to a shift of the brightness, sensitive to blur and to displaced edges, which
    a mean absolute difference of pixels forgives too easily.

    Args:
      a_BYXC: float[B, Y, X, C], sides that are multiples of 4.
      b_BYXC: float[B, Y, X, C].

    Returns:
      float[], 0 for equal pictures.
    """
    difference_BYXC = a_BYXC - b_BYXC  # all that follows is linear up to the modulus
    total = jnp.zeros(())
    for scale in range(NUM_SCALES):
        if scale > 0:
            difference_BYXC = _halve(difference_BYXC)
        down_BYXC = difference_BYXC[:, 1:] - difference_BYXC[:, :-1]
        right_BYXC = difference_BYXC[:, :, 1:] - difference_BYXC[:, :, :-1]
        total += jnp.mean(jnp.abs(down_BYXC)) + jnp.mean(jnp.abs(right_BYXC))
    return total / NUM_SCALES


def _halve(x_BYXC: jax.Array) -> jax.Array:
    B, Y, X, C = x_BYXC.shape
    return jnp.mean(x_BYXC.reshape(B, Y // 2, 2, X // 2, 2, C), axis=(2, 4))
