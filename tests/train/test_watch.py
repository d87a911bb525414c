"""What entries say beyond a step's own numbers."""

import math

import jax
import pytest

from cm3leon_jax import devices
from cm3leon_jax.models import transformer
from cm3leon_jax.train import flops, watch

MODEL = transformer.TransformerConfig(
    num_layers=2,
    num_heads=2,
    model_dim=32,
    head_dim=16,
    mlp_dim=64,
    vocab_size=64,
    max_length=16,
)


def test_sums_become_losses_and_losses_perplexities():
    numbers = {"nll_at_0k": 6.0, "weight_at_0k": 3.0, "loss_text": 1.0, "loss": 5.0}
    numbers |= {"nll_at_1k": 0.0, "weight_at_1k": 0.0}  # no row was so long
    assert watch.Derive(MODEL, 16, None)(numbers) == {
        "loss_text": 1.0,
        "loss": 5.0,
        "loss_at_0k": 2.0,
        "perplexity_text": math.e,
        "perplexity_at_0k": pytest.approx(math.exp(2)),
    }


def test_utilisation_is_the_share_of_the_peak_and_absent_without_one():
    numbers = {"tokens_per_second": 1000.0}
    peak = 4000 * flops.per_token(MODEL, 16).training
    found = watch.Derive(MODEL, 16, peak)(dict(numbers))
    assert found["utilisation"] == pytest.approx(0.25)
    assert found["memory_host_gb"] > 0
    assert "utilisation" not in watch.Derive(MODEL, 16, None)(dict(numbers))


class Chip:
    """A device of a TPU as JAX describes it: all that is counted here."""

    device_kind = "TPU v4"

    def __init__(self, coords, slice_index=0):
        self.coords, self.slice_index = coords, slice_index


class Mesh:
    """A mesh's devices."""

    def __init__(self, *chips):
        self.devices = type("Flat", (), {"flat": list(chips)})


def test_peak_counts_chips_not_their_halves():
    one = devices.named("v4").peak_flops
    halves = [Chip((0, 0, 0)), Chip((0, 0, 0)), Chip((0, 0, 1)), Chip((0, 0, 1))]
    assert watch.peak_flops(Mesh(*halves)) == 2 * one
    assert watch.peak_flops(Mesh(Chip((0, 0, 0)), Chip((0, 0, 0), 1))) == 2 * one


def test_peak_of_a_cpu_is_not_known():
    mesh = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Auto,))
    assert watch.peak_flops(mesh) is None
