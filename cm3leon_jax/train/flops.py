"""Floating-point operations of the model, counted by hand, for utilisation and plans.

The convention of the published figures that ours are compared with:

- Matrix products only, two operations a multiply-add: norms, softmax, activations,
  embedding look-ups and the optimizer count nothing.
- Causal attention counts the keys that a query may see, (L + 1) / 2 of them on average
  over a row of L tokens (6 N + 6 layers D L a trained token, not 12). Packed documents
  count as one row, whatever their segments hide.
- The backward pass is twice the forward pass. What rematerialisation computes again is
  work of the hardware, not of the model: it is not here.

A compiler's own count cannot be used: it counts the body of a scan once, and a kernel
not at all.
"""

import dataclasses

from cm3leon_jax.models import transformer

_PER_MULTIPLY_ADD = 2
_BACKWARD = 2  # products of the backward pass for each one of the forward pass


@dataclasses.dataclass(frozen=True)
class TokenFlops:
    """Operations of one token's forward pass, averaged over its row.

    Attributes:
      layers: products with the weights of all layers.
      attention: queries with keys, and weights with values, of all layers.
      head: the product with the output table.
    """

    layers: float
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """Of the forward pass."""
        return self.layers + self.attention + self.head

    @property
    def backward(self) -> float:
        """Of the backward pass."""
        return _BACKWARD * self.forward

    @property
    def training(self) -> float:
        """Of forward and backward pass: the model FLOPs of utilisation (MFU)."""
        return self.forward + self.backward


def per_token(config: transformer.TransformerConfig, length: int) -> TokenFlops:
    """Returns the operations of one token in a row of `length` tokens.

    Args:
      config: of the model.
      length: tokens of the row, L.

    Returns:
      Forward operations by part; for the paper's sizes at 4,096 tokens `training` is
      2.82e9 (350M), 5.59e9 (760M) and 4.35e10 (7B).
    """
    c = config
    keys = (length + 1) / 2
    return TokenFlops(
        layers=_PER_MULTIPLY_ADD * c.num_layers * layer_weights(c),
        attention=2
        * _PER_MULTIPLY_ADD
        * c.num_layers
        * c.num_heads
        * c.head_dim
        * keys,
        head=_PER_MULTIPLY_ADD * c.vocab_size * c.model_dim,
    )


def layer_weights(config: transformer.TransformerConfig) -> int:
    """Returns the weights of one layer that are factors of products."""
    c = config
    attention = 2 * c.model_dim * (c.num_heads + c.kv_heads) * c.head_dim
    return attention + (2 + c.gated_mlp) * c.model_dim * c.mlp_dim


def utilisation(
    config: transformer.TransformerConfig,
    length: int,
    *,
    tokens_per_second: float,
    peak_flops: float,
) -> float:
    """Returns the model FLOPs utilisation of a training run, in [0, 1].

    Args:
      config: of the model.
      length: tokens of a row.
      tokens_per_second: of all devices together, the whole step included.
      peak_flops: FLOP/s of all devices together, dense, in the dtype of the products
        (`devices.py`).
    """
    return tokens_per_second * per_token(config, length).training / peak_flops
