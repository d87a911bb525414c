"""Functions that the transformer's layers are made of: norm, activations, products.

Letters: B rows, L sequence, D the last dimension.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

# Of the signature of `outer`.
Outer = Callable[..., jax.Array]


class Shared(Protocol):
    """A weight of which every device keeps a share; see `shares.Share`."""

    def whole(self, weights: jax.Array) -> jax.Array:
        """Returns all of the weight."""
        ...

    def sum_of(self, product: Outer) -> Outer:
        """Makes of `outer` the same sum over all devices."""
        ...


ACTIVATIONS = {
    "relu": jax.nn.relu,  # metaseq's default and the assumption for CM3Leon
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


def layer_norm(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns `x` with mean 0 and variance 1 in its last dimension, in float32.

    No learned scale or shift (CM3Leon, arXiv:2309.02591, section 2).

    Args:
      x: float[..., D].
      epsilon: added to the variance.

    Returns:
      float[..., D], in the dtype of `x`.
    """
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)


def rms_norm(x: jax.Array, scale_D: jax.Array, epsilon: float) -> jax.Array:
    """Returns `x` with mean square 1 in its last dimension, times a learned scale.

    Args:
      x: float[..., D]; the norm is computed in float32.
      scale_D: float[D].
      epsilon: added to the mean square.

    Returns:
      float[..., D], in the dtype of `x`.

    Source: Zhang and Sennrich, arXiv:1910.07467.
    """
    x32 = x.astype(jnp.float32)
    square = jnp.square(x32).mean(-1, keepdims=True)
    normed = (x32 * jax.lax.rsqrt(square + epsilon)).astype(x.dtype)
    scale = scale_D.astype(x.dtype)
    return normed * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
    """Returns queries or keys turned by their positions: element i with i + K/2.

    Scores of turned queries and keys depend on the difference of their positions alone.

    Args:
      x_BLHK: float[B, L, H, K], K even.
      positions_BL: int32[B, L].
      theta: base of the wavelengths, 10,000 as published.

    Returns:
      float[B, L, H, K], in the dtype of `x_BLHK`.

    Source: Su et al., arXiv:2104.09864; the pairs are those of Llama's port to
    transformers.
    """
    half = x_BLHK.shape[-1] // 2
    frequencies = theta ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions_BL[:, :, None, None] * frequencies[None, None, None]
    cos, sin = (
        jnp.cos(angles).astype(x_BLHK.dtype),
        jnp.sin(angles).astype(x_BLHK.dtype),
    )
    first, second = x_BLHK[..., :half], x_BLHK[..., half:]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def project(
    x: jax.Array,
    weights: jax.Array,
    num_inputs: int = 1,
    product_dtype: str | None = None,
    gradient_dtype: str = "float32",
    shared: Shared | None = None,
) -> jax.Array:
    """Returns the product over the last dimensions of `x` and the first of `weights`.

    The same as `jnp.tensordot`, with a backward pass of its own: the gradient of the
    weights is one product with rows and sequence contracted, in the weights' own
    dimension order and dtype. Derived automatically, XLA on CPU copies the output's
    gradient transposed first, which takes as long as the product.

    Args:
      x: float[B, L, *inputs].
      weights: float[*inputs, *outputs], cast to the dtype of the product.
      num_inputs: number of input dimensions.
      product_dtype: what the factors of all three products are rounded to, their sums
        staying float32; the dtype of `x` by default.
      gradient_dtype: that the weights' gradient is rounded to before devices add
        theirs.
      shared: how devices share the weights; None where each has all of them.

    Returns:
      float[B, L, *outputs], in the dtype of `x`.
    """
    del gradient_dtype  # of the backward pass
    whole = _whole(weights, product_dtype or x.dtype, shared)
    return contract(x, whole, num_inputs, product_dtype)


def _project_forward(x, weights, num_inputs, product_dtype, gradient_dtype, shared):
    del gradient_dtype
    # Not by `project`: a remat policy would not see the product inside of it.
    whole = _whole(weights, product_dtype or x.dtype, shared)
    return contract(x, whole, num_inputs, product_dtype), (x, weights)


def _project_backward(num_inputs, product_dtype, gradient_dtype, shared, saved, grad):
    x, weights = saved
    whole = _whole(weights, product_dtype or grad.dtype, shared)
    swapped = swap(whole, num_inputs, product_dtype)
    grad_x = contract(grad, swapped, weights.ndim - num_inputs, product_dtype)
    sum_of = shared.sum_of(outer) if shared else outer
    grad_weights = sum_of(x, grad, jnp.dtype(gradient_dtype), product_dtype)
    return grad_x, grad_weights.astype(weights.dtype)


project.defvjp(_project_forward, _project_backward)


def _whole(weights, dtype, shared: Shared | None) -> jax.Array:
    """All of the weights; what travels is rounded before."""
    return shared.whole(weights.astype(dtype)) if shared else weights


def contract(
    x: jax.Array,
    weights: jax.Array,
    num: int,
    product_dtype: str | None = None,
    dtype: jnp.dtype | None = None,
) -> jax.Array:
    """Returns the product over the last `num` dimensions of `x`, in `dtype`.

    The forward pass of `project`, where `dtype` is that of `x`.
    """
    factor_dtype = product_dtype or x.dtype
    last = tuple(range(x.ndim - num, x.ndim))
    over = ((last, tuple(range(num))), ((), ()))
    return jax.lax.dot_general(
        x.astype(factor_dtype),
        weights.astype(factor_dtype),
        over,
        preferred_element_type=dtype or x.dtype,
    )


def outer(
    a: jax.Array, b: jax.Array, dtype: jnp.dtype, product_dtype: str | None = None
) -> jax.Array:
    """Returns the sum over rows and sequence of all products of `a` and `b`.

    XLA on CPU transposes the left operand in a pass of its own; so there the narrower one
    stands left, and the small result is transposed instead. On a TPU that would be a
    second array of the result's size.

    Args:
      a: float[B, L, *left].
      b: float[B, L, *right].
      dtype: of the result.
      product_dtype: what the factors are rounded to; their own dtype by default.

    Returns:
      dtype[*left, *right].
    """

    def turned(a, b):
        """The narrower factor left."""
        swapped = _outer(b, a, dtype, product_dtype)
        swapped = jax.lax.optimization_barrier(swapped)  # XLA would swap them back
        return swap(swapped, b.ndim - 2)

    plain = functools.partial(_outer, dtype=dtype, product_dtype=product_dtype)
    if a.size <= b.size:
        return plain(a, b)
    return jax.lax.platform_dependent(a, b, cpu=turned, default=plain)


def _outer(a, b, dtype, product_dtype):
    if product_dtype is None:
        over = (((0, 1), (0, 1)), ((), ()))
        return jax.lax.dot_general(a, b, over, preferred_element_type=dtype)
    rows_last = swap(a, 2, product_dtype)
    over = ((tuple(range(a.ndim - 2, a.ndim)), (0, 1)), ((), ()))
    return jax.lax.dot_general(
        rows_last, b.astype(product_dtype), over, preferred_element_type=dtype
    )


def swap(x: jax.Array, num: int, product_dtype: str | None = None) -> jax.Array:
    """Moves the first `num` dimensions to the end, as a factor of a product.

    Rounding is a copy, which then transposes too: XLA on CPU multiplies bfloat16 at
    full speed only when both factors lie as in memory. The barrier keeps the copy.
    """
    swapped = x.transpose(*range(num, x.ndim), *range(num))
    if product_dtype is None:
        return swapped
    return jax.lax.optimization_barrier(swapped.astype(product_dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table_VD: jax.Array, ids_BL: jax.Array, dtype: str) -> jax.Array:
    """Returns rows of a table in `dtype`; their gradients are summed up in float32.

    Derived automatically, the gradient of a token that is met a thousand times would
    be summed up in `dtype`.

    Args:
      table_VD: float[V, D].
      ids_BL: int32[B, L], rows of the table.
      dtype: of the result.

    Returns:
      float[B, L, D].
    """
    return table_VD.astype(dtype)[ids_BL]


def _lookup_forward(table_VD, ids_BL, dtype):
    return table_VD.astype(dtype)[ids_BL], (table_VD, ids_BL)


def _lookup_backward(dtype, saved, grad_BLD):
    del dtype
    table_VD, ids_BL = saved  # the table for its shape only
    zeros_VD = jnp.zeros(table_VD.shape, jnp.float32)
    grad_VD = zeros_VD.at[ids_BL].add(grad_BLD.astype(jnp.float32))
    return grad_VD.astype(table_VD.dtype), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def _unstack(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """Returns the slices of `x` along a dimension, as `jnp.unstack` does.

    The gradient is one stack; the derived one is a sum of padded slices.
    """
    return tuple(jax.lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis]))


def _unstack_forward(x, axis):
    return unstack(x, axis), None


def _unstack_backward(axis, _, grads):
    return (jnp.stack(grads, axis),)


unstack = jax.custom_vjp(_unstack, nondiff_argnums=(1,))
unstack.defvjp(_unstack_forward, _unstack_backward)
