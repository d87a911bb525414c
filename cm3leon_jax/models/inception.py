"""Inception v3 as the FID measures with: pictures to 2,048 features and 1,008 classes.

    299 x 299 --stem--> 35 x 35 x 192 --A A A--> B --C C C C--> D --E E--> 8 x 8 x 2048
    mean over places: features; a matrix: logits

The net of TensorFlow's 2015 model, whose weights pytorch-fid gives as a file. It differs
from later Inceptions: averages leave padding out of the count, the last block takes a
maximum where the others average, and there are 1,008 classes. Layout NHWC; layers are
named as in PyTorch, `convert/inception.py` reads their weights.

Letters: B pictures, Y and X rows and columns, C channels.

Source: Szegedy et al., arXiv:1512.00567; github.com/mseitzer/pytorch-fid.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

IMAGE_SIZE = 299
_EPSILON = 1e-3  # of the normalisation
_SAME, _VALID = "SAME", "VALID"


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """Widths; the defaults are those of the FID's weights.

    Attributes:
      width: Of the first layer, in channels; all others follow from it. 32 is the net
        itself, fewer make one for tests.
      num_classes: Of the logits.
    """

    width: int = 32
    num_classes: int = 1_008

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return 64 * self.width


class Unit(nnx.Module):
    """A convolution without bias, its normalisation with fixed statistics, a ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel, strides=1, padding=_SAME, *, rngs
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            kernel,
            strides=strides,
            padding=padding,
            use_bias=False,
            rngs=rngs,
        )
        self.scale_C = nnx.Param(jnp.ones(outputs))
        self.bias_C = nnx.Param(jnp.zeros(outputs))
        self.mean_C = nnx.Param(jnp.zeros(outputs))
        self.variance_C = nnx.Param(jnp.ones(outputs))

    def __call__(self, x_BYXC: jax.Array) -> jax.Array:
        """Returns float[B, Y', X', outputs], not below 0."""
        x_BYXC = self.conv(x_BYXC)
        factor_C = self.scale_C[...] / jnp.sqrt(self.variance_C[...] + _EPSILON)
        shift_C = self.bias_C[...] - self.mean_C[...] * factor_C
        return jax.nn.relu(
            x_BYXC * factor_C[None, None, None] + shift_C[None, None, None]
        )


class BlockA(nnx.Module):
    """Four branches at 35 x 35."""

    def __init__(self, inputs: int, pooled: int, width: int, rngs: nnx.Rngs):
        w = width
        self.branch1x1 = Unit(inputs, 2 * w, (1, 1), rngs=rngs)
        self.branch5x5_1 = Unit(inputs, 3 * w // 2, (1, 1), rngs=rngs)
        self.branch5x5_2 = Unit(3 * w // 2, 2 * w, (5, 5), rngs=rngs)
        self.branch3x3dbl_1 = Unit(inputs, 2 * w, (1, 1), rngs=rngs)
        self.branch3x3dbl_2 = Unit(2 * w, 3 * w, (3, 3), rngs=rngs)
        self.branch3x3dbl_3 = Unit(3 * w, 3 * w, (3, 3), rngs=rngs)
        self.branch_pool = Unit(inputs, pooled, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, 7 w + pooled]."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(_mean_pool(x))
        return jnp.concatenate([self.branch1x1(x), five, three, pooled], axis=-1)


class BlockB(nnx.Module):
    """From 35 x 35 to 17 x 17."""

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        w = width
        self.branch3x3 = Unit(inputs, 12 * w, (3, 3), 2, _VALID, rngs=rngs)
        self.branch3x3dbl_1 = Unit(inputs, 2 * w, (1, 1), rngs=rngs)
        self.branch3x3dbl_2 = Unit(2 * w, 3 * w, (3, 3), rngs=rngs)
        self.branch3x3dbl_3 = Unit(3 * w, 3 * w, (3, 3), 2, _VALID, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float[B, Y / 2, X / 2, 15 w + inputs]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return jnp.concatenate([self.branch3x3(x), double, _shrink(x)], axis=-1)


class BlockC(nnx.Module):
    """Four branches at 17 x 17, their sevens in two steps."""

    def __init__(self, inputs: int, inner: int, width: int, rngs: nnx.Rngs):
        out = 6 * width
        self.branch1x1 = Unit(inputs, out, (1, 1), rngs=rngs)
        self.branch7x7_1 = Unit(inputs, inner, (1, 1), rngs=rngs)
        self.branch7x7_2 = Unit(inner, inner, (1, 7), rngs=rngs)
        self.branch7x7_3 = Unit(inner, out, (7, 1), rngs=rngs)
        self.branch7x7dbl_1 = Unit(inputs, inner, (1, 1), rngs=rngs)
        self.branch7x7dbl_2 = Unit(inner, inner, (7, 1), rngs=rngs)
        self.branch7x7dbl_3 = Unit(inner, inner, (1, 7), rngs=rngs)
        self.branch7x7dbl_4 = Unit(inner, inner, (7, 1), rngs=rngs)
        self.branch7x7dbl_5 = Unit(inner, out, (1, 7), rngs=rngs)
        self.branch_pool = Unit(inputs, out, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, 24 w]."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pooled = self.branch_pool(_mean_pool(x))
        return jnp.concatenate([self.branch1x1(x), seven, double, pooled], axis=-1)


class BlockD(nnx.Module):
    """From 17 x 17 to 8 x 8."""

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        w = 6 * width
        self.branch3x3_1 = Unit(inputs, w, (1, 1), rngs=rngs)
        self.branch3x3_2 = Unit(w, 10 * width, (3, 3), 2, _VALID, rngs=rngs)
        self.branch7x7x3_1 = Unit(inputs, w, (1, 1), rngs=rngs)
        self.branch7x7x3_2 = Unit(w, w, (1, 7), rngs=rngs)
        self.branch7x7x3_3 = Unit(w, w, (7, 1), rngs=rngs)
        self.branch7x7x3_4 = Unit(w, w, (3, 3), 2, _VALID, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float[B, Y / 2, X / 2, 16 w + inputs]."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return jnp.concatenate([three, seven, _shrink(x)], axis=-1)


class BlockE(nnx.Module):
    """Branches at 8 x 8; the last of them pools by the maximum."""

    def __init__(self, inputs: int, width: int, *, is_last: bool, rngs: nnx.Rngs):
        w = 12 * width
        self.is_last = is_last
        self.branch1x1 = Unit(inputs, 10 * width, (1, 1), rngs=rngs)
        self.branch3x3_1 = Unit(inputs, w, (1, 1), rngs=rngs)
        self.branch3x3_2a = Unit(w, w, (1, 3), rngs=rngs)
        self.branch3x3_2b = Unit(w, w, (3, 1), rngs=rngs)
        self.branch3x3dbl_1 = Unit(inputs, 14 * width, (1, 1), rngs=rngs)
        self.branch3x3dbl_2 = Unit(14 * width, w, (3, 3), rngs=rngs)
        self.branch3x3dbl_3a = Unit(w, w, (1, 3), rngs=rngs)
        self.branch3x3dbl_3b = Unit(w, w, (3, 1), rngs=rngs)
        self.branch_pool = Unit(inputs, 6 * width, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float[B, Y, X, 64 w]."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _max_pool(x, 1, _SAME) if self.is_last else _mean_pool(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return jnp.concatenate([*parts, self.branch_pool(pooled)], axis=-1)


class Inception(nnx.Module):
    """The whole net; layers bear the names of the weights' file."""

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
        w, self.config = config.width, config
        self.Conv2d_1a_3x3 = Unit(3, w, (3, 3), 2, _VALID, rngs=rngs)
        self.Conv2d_2a_3x3 = Unit(w, w, (3, 3), 1, _VALID, rngs=rngs)
        self.Conv2d_2b_3x3 = Unit(w, 2 * w, (3, 3), rngs=rngs)
        self.Conv2d_3b_1x1 = Unit(2 * w, 5 * w // 2, (1, 1), rngs=rngs)
        self.Conv2d_4a_3x3 = Unit(5 * w // 2, 6 * w, (3, 3), 1, _VALID, rngs=rngs)
        self.Mixed_5b = BlockA(6 * w, w, w, rngs)
        self.Mixed_5c = BlockA(8 * w, 2 * w, w, rngs)
        self.Mixed_5d = BlockA(9 * w, 2 * w, w, rngs)
        self.Mixed_6a = BlockB(9 * w, w, rngs)
        self.Mixed_6b = BlockC(24 * w, 4 * w, w, rngs)
        self.Mixed_6c = BlockC(24 * w, 5 * w, w, rngs)
        self.Mixed_6d = BlockC(24 * w, 5 * w, w, rngs)
        self.Mixed_6e = BlockC(24 * w, 6 * w, w, rngs)
        self.Mixed_7a = BlockD(24 * w, w, rngs)
        self.Mixed_7b = BlockE(40 * w, w, is_last=False, rngs=rngs)
        self.Mixed_7c = BlockE(64 * w, w, is_last=True, rngs=rngs)
        self.fc = nnx.Linear(64 * w, config.num_classes, rngs=rngs)

    def __call__(self, x_BYXC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs the net.

        Args:
          x_BYXC: float32[B, 299, 299, 3] in [-1, 1], see `prepare`.

        Returns:
          float32[B, 64 w] features, float32[B, K] logits.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x_BYXC)))
        x = _shrink(x)
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features_BE = x.mean(axis=(1, 2))
        return features_BE, self.fc(features_BE)


def prepare(pictures_BYXC: jax.Array) -> jax.Array:
    """Returns pictures as the net takes them, as pytorch-fid makes them.

    Bilinear, corners not aligned, no blur before: the values that all published numbers
    were made with, though a blurred resize would be the better picture.

    Args:
      pictures_BYXC: uint8[B, Y, X, 3].

    Returns:
      float32[B, 299, 299, 3] in [-1, 1].
    """
    x = jnp.asarray(pictures_BYXC, jnp.float32) / 255
    shape = (x.shape[0], IMAGE_SIZE, IMAGE_SIZE, x.shape[3])
    return 2 * jax.image.resize(x, shape, "bilinear", antialias=False) - 1


def _mean_pool(x_BYXC: jax.Array) -> jax.Array:
    """Means of 3 x 3 places; the padding is not counted."""
    return nnx.avg_pool(x_BYXC, (3, 3), (1, 1), _SAME, count_include_pad=False)


def _max_pool(x_BYXC: jax.Array, stride: int, padding: str) -> jax.Array:
    return nnx.max_pool(x_BYXC, (3, 3), (stride, stride), padding)


def _shrink(x_BYXC: jax.Array) -> jax.Array:
    return _max_pool(x_BYXC, 2, _VALID)
