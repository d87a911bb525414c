"""Operations that a traced program executes, rematerialisation included.

Counted from the program before compilation, where a loop still says how often it runs:
products and convolutions exactly, and attention kernels, of which the compiler sees
nothing, by their name and shapes:

    forward    2 products of [L, L] a head, backward 5 (scores are computed again)

of which causal kernels do the half below the diagonal. A loop without a known number
of turns counts once; of a conditional the branch with the most counts.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.extend import core

_PER_MULTIPLY_ADD = 2
_FORWARD_PRODUCTS, _BACKWARD_PRODUCTS = 2, 5
_CAUSAL_SHARE = 0.5
_KERNELS = ("pallas_call", "dot_product_attention")


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of one run of a program, of all devices together.

    Attributes:
      products: of matrix products outside of kernels.
      attention: of attention kernels.
    """

    products: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.attention

    def __add__(self, other: "Work") -> "Work":
        return Work(self.products + other.products, self.attention + other.attention)

    def __mul__(self, times: float) -> "Work":
        return Work(self.products * times, self.attention * times)


def count(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> Work:
    """Returns the operations of a traced function.

    Args:
      jaxpr: from `jax.jit(f).trace(...).jaxpr` or `jax.make_jaxpr`.
    """
    if isinstance(jaxpr, core.ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    total = Work()
    for equation in jaxpr.eqns:
        total += _of_equation(equation)
    return total


def _of_equation(equation: core.JaxprEqn) -> Work:
    name = equation.primitive.name
    if name == "dot_general":
        return Work(products=_dot(equation))
    if name == "conv_general_dilated":
        return Work(products=_convolution(equation))
    if name.startswith(_KERNELS):
        return Work(attention=_kernel(equation))
    inner = [count(jaxpr) for jaxpr in inner_jaxprs(equation.params)]
    if not inner:
        return Work()
    if name == "cond":
        return max(inner, key=lambda work: work.total)
    times = 1
    if name == "scan":
        times = equation.params["length"]
    if name == "shard_map":  # its shapes are of one device
        times = equation.params["mesh"].size
    return sum(inner, Work()) * times


def _dot(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    depth = math.prod(left[dim] for dim in contracted)
    return _PER_MULTIPLY_ADD * math.prod(_shape(equation.outvars[0])) * depth


def _convolution(equation: core.JaxprEqn) -> float:
    kernel = _shape(equation.invars[1])
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    depth = math.prod(kernel) // out_features
    return _PER_MULTIPLY_ADD * math.prod(_shape(equation.outvars[0])) * depth


def _kernel(equation: core.JaxprEqn) -> float:
    """Operations of an attention kernel, by the shape of its queries, [..., K]."""
    name = f"{equation.primitive.name} {equation.params.get('name', '')}"
    is_backward = any(mark in name for mark in ("bwd", "dkv", "backward"))
    floats = [
        _shape(variable)
        for variable in equation.invars
        if jnp.issubdtype(_dtype(variable), jnp.floating)
    ]
    query = next((shape for shape in floats if len(shape) >= 3), None)
    if query is None:
        return 0.0
    # [..., H, L, K] of splash attention, [B, L, H, K] of cuDNN: L is the longer.
    length = max(query[-3:-1])
    products = _BACKWARD_PRODUCTS if is_backward else _FORWARD_PRODUCTS
    return _PER_MULTIPLY_ADD * products * math.prod(query) * length * _CAUSAL_SHARE


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _dtype(variable: Any) -> Any:
    return variable.aval.dtype


def inner_jaxprs(params: dict[str, Any]) -> list[core.Jaxpr | core.ClosedJaxpr]:
    """Returns the functions among an equation's parameters: a loop's body, branches."""
    kinds = (core.Jaxpr, core.ClosedJaxpr)
    found = []
    for value in params.values():
        values = value if isinstance(value, tuple | list) else (value,)
        found += [item for item in values if isinstance(item, kinds)]
    return found
