"""3x3 convolutions with a quarter of the products, on CPUs (Winograd's F(4x4, 3x3)).

Sixteen outputs of a tile, four by four, depend on 6 x 6 inputs; with 36 products for each
pair of channels, where nine for each output would be 144:

    output = A (sum over channels of (G kernel) * (B input))

A, B and G are small constant matrices that depend on five points. The usual ones (0, 1,
-1, 2, -2) lose two digits more than a plain convolution; those below lose one (see the
tests). Layout NHWC.

Letters: B pictures, Y and X rows and columns, C channels that come in, K that go out, S
places of a tile (36 or 16), N tiles.

Source: Lavin and Gray, arXiv:1509.09308; that points decide the error is from Barabasz et
al., arXiv:1803.10986.
"""

import jax
import jax.numpy as jnp
import numpy as np

_POINTS = (0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)  # and infinity
_TILE, _KERNEL = 4, 3  # outputs a side of a tile, sides of the kernel
_WINDOW = _TILE + _KERNEL - 1  # inputs a side of a tile
_TILES_AT_ONCE = 256  # so that what stands between two steps stays in a core's cache
_MIN_PLACES = 32 * 32  # smaller pictures do not repay the transform of the kernel
_MIN_CHANNELS = 64


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [16, 36], G [36, 9] and B [36, 36], for tiles whose two sides are one axis."""
    powers = lambda count: np.array(
        [[point**i for i in range(count)] for point in _POINTS]
        + [[0.0] * (count - 1) + [1.0]]
    )
    of_outputs, of_kernel = powers(_TILE).T, powers(_KERNEL)
    of_inputs = np.linalg.inv(powers(_WINDOW)).T
    both = lambda one: np.kron(one, one).astype(np.float32)
    return both(of_outputs), both(of_kernel), both(of_inputs)


_A, _G, _B = _matrices()


def is_worth_it(shape: tuple[int, ...], kernel: tuple[int, ...], dtype) -> bool:
    """Whether `convolve` takes fewer seconds than a plain convolution on a CPU.

    Args:
      shape: of the pictures, [B, Y, X, C].
      kernel: its shape, [Y, X, C, K].
      dtype: of both; only in float32 are digits to spare.
    """
    return (
        kernel[:2] == (_KERNEL, _KERNEL)
        and min(kernel[2:]) >= _MIN_CHANNELS
        and shape[1] * shape[2] >= _MIN_PLACES
        and dtype == jnp.float32
    )


@jax.custom_vjp
def convolve(x_BYXC: jax.Array, kernel_YXCK: jax.Array) -> jax.Array:
    """Returns a convolution that keeps the sides, zeros around.

    On a CPU it is this module's, elsewhere the compiler's own; gradients are those of a
    plain convolution everywhere, which needs less memory for them.

    Args:
      x_BYXC: float32[B, Y, X, C].
      kernel_YXCK: float32[3, 3, C, K].

    Returns:
      float32[B, Y, X, K], to about 1e-5 of the largest the same on all devices.
    """
    return jax.lax.platform_dependent(x_BYXC, kernel_YXCK, cpu=in_tiles, default=plain)


def _forward(x_BYXC: jax.Array, kernel_YXCK: jax.Array):
    return convolve(x_BYXC, kernel_YXCK), (x_BYXC, kernel_YXCK)


def _backward(kept, slope_BYXK: jax.Array):
    return jax.vjp(plain, *kept)[1](slope_BYXK)


convolve.defvjp(_forward, _backward)


def plain(x_BYXC: jax.Array, kernel_YXCK: jax.Array) -> jax.Array:
    """Returns the same by the compiler's convolution."""
    return jax.lax.conv_general_dilated(
        x_BYXC,
        kernel_YXCK,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def in_tiles(x_BYXC: jax.Array, kernel_YXCK: jax.Array) -> jax.Array:
    """Returns the same by tiles, some rows of them at a time.

    How many does not depend on the number of pictures, so that a device computes the
    same for its share of them as it would for them alone.
    """
    B, Y, X, C = x_BYXC.shape
    K = kernel_YXCK.shape[-1]
    columns = -(-X // _TILE)
    rows = min(-(-Y // _TILE), max(1, _TILES_AT_ONCE // columns))
    height, width = rows * _TILE, columns * _TILE
    num_strips = -(-Y // height)
    more = (1, num_strips * height + 1 - Y), (1, width + 1 - X)
    padded_BYXC = jnp.pad(x_BYXC, ((0, 0), *more, (0, 0)))
    kernel_SCK = jnp.matmul(_G, kernel_YXCK.reshape(_KERNEL**2, -1)).reshape(-1, C, K)

    def strip(number: jax.Array) -> jax.Array:
        """One strip of every picture: float32[B, height, width, K]."""
        window_BYXC = jax.lax.dynamic_slice_in_dim(
            padded_BYXC, number * height, height + _KERNEL - 1, axis=1
        )
        inputs_SN = jnp.matmul(_B, _windows(window_BYXC))
        inputs_SNC = inputs_SN.reshape(_WINDOW**2, -1, C)
        products_SNK = jnp.matmul(inputs_SNC, kernel_SCK)
        outputs_SN = jnp.matmul(_A, products_SNK.reshape(_WINDOW**2, -1))
        tiles = outputs_SN.reshape(_TILE, _TILE, B, rows, columns, K)
        return tiles.transpose(2, 3, 0, 4, 1, 5).reshape(B, height, width, K)

    strips = jnp.moveaxis(jax.lax.map(strip, jnp.arange(num_strips)), 0, 1)
    return strips.reshape(B, num_strips * height, width, K)[:, :Y, :X]


def _windows(image_BYXC: jax.Array) -> jax.Array:
    """Returns what every tile reads: float32[36, N C], overlapping by two pixels."""
    _, Y, X, _ = image_BYXC.shape
    last = _KERNEL - 1
    places = [
        image_BYXC[:, i : Y - last + i : _TILE, j : X - last + j : _TILE].reshape(-1)
        for i in range(_WINDOW)
        for j in range(_WINDOW)
    ]
    return jnp.stack(places)
