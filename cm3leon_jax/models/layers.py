"""Functions that the transformer's layers are made of: norm, activations, products.

Letters: B rows, L sequence, D the last dimension.
"""

import functools

import jax
import jax.numpy as jnp

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x: jax.Array, weights: jax.Array, num_inputs: int = 1) -> jax.Array:
    """Returns the product over the last dimensions of `x` and the first of `weights`.

    The same as `jnp.tensordot`, with a backward pass of its own: the gradient of the
    weights is one product with rows and sequence contracted, in the weights' own
    dimension order and dtype. Derived automatically, XLA on CPU copies the output's
    gradient transposed first, which takes as long as the product.

    Args:
      x: float[B, L, *inputs].
      weights: float[*inputs, *outputs], cast to the dtype of `x`.
      num_inputs: number of input dimensions.

    Returns:
      float[B, L, *outputs], in the dtype of `x`.
    """
    return _contract(x, weights.astype(x.dtype), _tail(x, num_inputs), num_inputs)


def _project_forward(x, weights, num_inputs):
    return project(x, weights, num_inputs), (x, weights)


def _project_backward(num_inputs, saved, grad):
    x, weights = saved
    outputs = tuple(range(num_inputs, weights.ndim))
    last = _tail(grad, len(outputs))
    over = ((last, outputs), ((), ()))
    grad_x = jax.lax.dot_general(grad, weights.astype(x.dtype), over)
    return grad_x, outer(x, grad, weights.dtype)


project.defvjp(_project_forward, _project_backward)


def outer(a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the sum over rows and sequence of all products of `a` and `b`.

    XLA on CPU transposes the left operand in a pass of its own; so the narrower one
    stands left, and the small result is transposed instead.

    Args:
      a: float[B, L, *left].
      b: float[B, L, *right].
      dtype: of the result.

    Returns:
      dtype[*left, *right].
    """
    over = (((0, 1), (0, 1)), ((), ()))
    if a.size <= b.size:
        return jax.lax.dot_general(a, b, over, preferred_element_type=dtype)
    swapped = jax.lax.dot_general(b, a, over, preferred_element_type=dtype)
    swapped = jax.lax.optimization_barrier(swapped)  # XLA would swap them back
    right = tuple(range(b.ndim - 2))
    return swapped.transpose(*range(len(right), swapped.ndim), *right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def unstack(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """Returns the slices of `x` along a dimension, as `jnp.unstack` does.

    The gradient is one stack; the derived one is a sum of padded slices.
    """
    return tuple(jax.lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis]))


def _unstack_forward(x, axis):
    return unstack(x, axis), None


def _unstack_backward(axis, _, grads):
    return (jnp.stack(grads, axis),)


unstack.defvjp(_unstack_forward, _unstack_backward)


def _contract(x, weights, dims, num_inputs: int) -> jax.Array:
    return jax.lax.dot_general(x, weights, ((dims, tuple(range(num_inputs))), ((), ())))


def _tail(x: jax.Array, count: int) -> tuple[int, ...]:
    """The last `count` dimensions."""
    return tuple(range(x.ndim - count, x.ndim))
