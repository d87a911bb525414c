"""Settings that would make a step fit: which are tried, in which order, how estimated."""

import jax
import jax.numpy as jnp
import pytest

from cm3leon_jax import devices
from cm3leon_jax.jobs import plan, recipe
from cm3leon_jax.plan import search
from configs import plan as config_file

LAYERS, ROWS, WIDTH = 5, 16, 32


def test_settings_divide_rows_and_heads():
    found = search.settings(
        num_rows=48, num_devices=16, remats=("full",), tensors=(1, 2, 3, 4), num_heads=2
    )
    assert {one.tensor for one in found} == {1, 2}
    by_tensor = {
        tensor: [one.num_microbatches for one in found if one.tensor == tensor]
        for tensor in (1, 2)
    }
    assert by_tensor == {1: [1, 3], 2: [1, 2, 3, 6]}


def test_rank_leaves_out_what_does_not_fit_and_prefers_the_fast_and_simple():
    make = lambda pieces, size, seconds: search.Candidate(
        search.Setting("full", pieces, 1), size, seconds, 1.0
    )
    large, slow, pieces, best = (
        make(1, 95, 1),
        make(1, 1, 3),
        make(4, 1, 2),
        make(2, 1, 2),
    )
    assert search.rank([large, slow, pieces, best], 100) == [best, pieces, slow]


@pytest.mark.parametrize("is_remat", [False, True])
def test_saved_bytes_are_what_the_forward_scan_stacks(is_remat):
    def layer(x_BD, weights_DD):
        return jnp.tanh(x_BD @ weights_DD), None

    body = jax.checkpoint(layer) if is_remat else layer
    total = lambda weights, x: jax.lax.scan(body, x, weights)[0].sum()
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    traced = jax.make_jaxpr(jax.grad(total))(weights, x)
    a_stack = LAYERS * ROWS * WIDTH * 4
    found = search.saved_bytes(traced, LAYERS) / a_stack
    # The input of every layer; without rematerialisation its output too, with copies.
    assert found == 1 if is_remat else found >= 2 * 1.5


def _estimate(remat, pieces, size="7b"):
    config = config_file.get_config(size)
    model = recipe.model(config.run, plan._VOCAB, is_cpu=False)
    chip = devices.named("v5e")
    planned = plan.describe(config.run, "v5e:16x16", chip, (16, 16), 256, model)
    config.search.remats, config.search.tensors = (remat,), (1,)
    found = plan.estimates(config, planned)
    return next(one for one in found if one.setting.num_microbatches == pieces)


def test_estimates_are_near_what_was_compiled_for_256_v5e():
    # docs/benchmarks.md: peaks of the compiled steps, in GiB.
    for remat, pieces, size, compiled in (
        ("full", 2, "7b", 8.16),
        ("dots", 2, "350m", 13.10),
    ):
        found = _estimate(remat, pieces, size)
        assert found.bytes / 2**30 == pytest.approx(compiled, rel=0.3)


def test_estimates_order_settings_as_the_compiler_would():
    few, many = _estimate("full", 2), _estimate("full", 8)
    kept = _estimate("dots", 8)
    assert many.bytes < few.bytes < _estimate("dots", 2).bytes
    assert kept.seconds < many.seconds
    assert (few.rows, many.rows) == (4, 1)
