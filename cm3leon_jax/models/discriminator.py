"""The second player of a VQGAN's training: is a patch of a picture real?

Letters: B pictures, Y and X rows and columns, C channels.
"""

import dataclasses

import jax
from flax import nnx

_SLOPE = 0.2  # of the leaky rectifier below zero, pix2pix
_MAX_MULTIPLIER = 8  # widths stop growing there, pix2pix


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of a patch discriminator.

    Attributes:
      base_channels: width of the first layer.
      num_layers: halvings of the sides; 3 makes patches of 70 pixels.
      num_groups: groups of the norms.
    """

    base_channels: int = 64
    num_layers: int = 3
    num_groups: int = 8


class PatchDiscriminator(nnx.Module):
    """Convolutions that end in one number for each patch, positive for real.

    Norms are over groups, not over the batch as in pix2pix: a picture's score does
    not depend on the other pictures, nor on how many devices share them.

    Source: pix2pix, arXiv:1611.07004, appendix 6.1.2, as VQGAN uses it.
    """

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        multipliers = [
            min(2**i, _MAX_MULTIPLIER) for i in range(1, config.num_layers + 1)
        ]
        widths = [config.base_channels * m for m in (1, *multipliers)]
        conv = lambda a, b, stride: nnx.Conv(
            a, b, (4, 4), strides=stride, padding=((1, 1), (1, 1)), rngs=rngs
        )
        self.conv_in = conv(3, widths[0], 2)
        strides = [2] * (config.num_layers - 1) + [1]
        self.conv = nnx.List(
            [conv(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)]
        )
        self.norm = nnx.List(
            [
                nnx.GroupNorm(width, num_groups=config.num_groups, rngs=rngs)
                for width in widths[1:]
            ]
        )
        self.conv_out = conv(widths[-1], 1, 1)

    def __call__(self, image_BYXC: jax.Array) -> jax.Array:
        """Returns scores: float[B, Y, X, 3] in [-1, 1] -> float[B, Y', X', 1]."""
        h_BYXC = nnx.leaky_relu(self.conv_in(image_BYXC), _SLOPE)
        for conv, norm in zip(self.conv, self.norm, strict=True):
            h_BYXC = nnx.leaky_relu(norm(conv(h_BYXC)), _SLOPE)
        return self.conv_out(h_BYXC)
