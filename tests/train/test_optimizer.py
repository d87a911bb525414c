"""The schedule's corners, decay, clipping and frozen parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cm3leon_jax.train import optimizer
from cm3leon_jax.vocab import Vocab

CONFIG = optimizer.OptimizerConfig(peak_lr=1e-2, warmup_steps=4, num_steps=20)
PARAMS = {
    "blocks": {"up": jnp.ones((2, 2)), "q_scale_K": jnp.ones(2)},
    "embed": jnp.ones(3),
}


def test_schedule_warms_up_peaks_and_ends_at_its_share():
    rate = optimizer.schedule(CONFIG)
    np.testing.assert_allclose(rate(0), 0.25e-2)
    np.testing.assert_allclose(rate(3), 1e-2)
    np.testing.assert_allclose(rate(20), 1e-3, rtol=0.1)
    values = [float(rate(i)) for i in range(3, 25)]
    assert values == sorted(values, reverse=True) and values[-1] >= 0.999e-3


@pytest.mark.parametrize("step", [10**6, 2**31 - 1])
def test_schedule_neither_restarts_nor_falls_below_its_end(step):
    config = optimizer.OptimizerConfig(peak_lr=1e-3, warmup_steps=10, num_steps=100)
    end = config.final_lr_share * config.peak_lr
    assert float(optimizer.schedule(config)(step)) == pytest.approx(end)
    assert float(optimizer.schedule(config)(jnp.int32(step))) == pytest.approx(end)


def test_first_update_is_adam_with_decay_but_not_on_scales():
    update = optimizer.make(CONFIG, PARAMS)
    gradient = {
        "blocks": {"up": jnp.full((2, 2), 1e-3), "q_scale_K": jnp.full(2, 1e-3)},
        "embed": jnp.zeros(3),
    }
    changes, _ = update.update(gradient, update.init(PARAMS), PARAMS)
    rate = 0.25e-2
    np.testing.assert_allclose(changes["blocks"]["up"], -rate * 1.1, rtol=1e-4)
    np.testing.assert_allclose(changes["blocks"]["q_scale_K"], -rate, rtol=1e-4)
    np.testing.assert_allclose(changes["embed"], -rate * 0.1, rtol=1e-4)


def test_long_gradients_are_clipped_to_the_norm():
    config = dataclasses.replace(CONFIG, weight_decay=0.0, epsilon=1.0)
    update = optimizer.make(config, PARAMS)
    steps = []
    for size in (1e3, 1e6):
        gradient = {
            "blocks": {"up": jnp.full((2, 2), size), "q_scale_K": jnp.zeros(2)},
            "embed": jnp.zeros(3),
        }
        steps.append(update.update(gradient, update.init(PARAMS), PARAMS)[0])
    np.testing.assert_allclose(steps[0]["blocks"]["up"], steps[1]["blocks"]["up"])


def test_parameters_that_no_pattern_names_stay_to_the_bit():
    config = dataclasses.replace(CONFIG, trained=("blocks/*",))
    update = optimizer.make(config, PARAMS)
    gradient = {
        "blocks": {"up": jnp.ones((2, 2)), "q_scale_K": jnp.ones(2)},
        "embed": jnp.ones(3),
    }
    params = PARAMS | {"embed": jnp.array([1.0, -0.0, 0.0])}
    changes, _ = update.update(gradient, update.init(params), params)
    moved = jax.jit(optax.apply_updates)(params, changes)
    assert moved["embed"].tobytes() == params["embed"].tobytes()
    assert not np.array_equal(moved["blocks"]["up"], params["blocks"]["up"])


def test_rows_of_other_ids_stay_to_the_bit_in_spite_of_decay():
    vocab = Vocab(
        text_size=5, image_size=2, control_size=3, num_sentinels=1, codes_per_image=1
    )
    config = dataclasses.replace(CONFIG, trained=("head_VD",), trained_ids="image")
    params = {"head_VD": jnp.full((10, 2), -0.0), "up": jnp.ones(3)}
    params["head_VD"] = params["head_VD"].at[2:].set(1.0)
    update = optimizer.make(config, params, vocab)
    gradient = {"head_VD": jnp.ones((10, 2)).at[0].set(1e6), "up": jnp.ones(3)}
    changes, moments = update.update(gradient, update.init(params), params)
    moved = optax.apply_updates(params, changes)
    before, after = (np.asarray(x["head_VD"]) for x in (params, moved))
    assert before[[0, 1, 2, 3, 4, 7, 8, 9]].tobytes() == (
        after[[0, 1, 2, 3, 4, 7, 8, 9]].tobytes()
    )
    # The long gradient of another row takes no part in what is clipped.
    np.testing.assert_allclose(after[5:7], 1 - 0.25e-2 * 1.1, rtol=1e-4)
    assert np.asarray(moved["up"]).tobytes() == np.asarray(params["up"]).tobytes()
    assert sum(x.size for x in jax.tree.leaves(moments)) < 2 * 20 + 5


def test_no_gradient_flows_through_what_is_not_trained():
    loss = lambda params: sum(
        (x**2).sum() for x in jax.tree.leaves(optimizer.hold(("embed", "*up"), params))
    )
    gradient = jax.grad(loss)(PARAMS)
    assert (gradient["blocks"]["q_scale_K"] == 0).all()
    assert (gradient["blocks"]["up"] == 2).all() and (gradient["embed"] == 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup_steps": 21}, "warmup_steps=21"),
        ({"trained": ()}, "trained"),
        ({"trained_ids": "text"}, "trained_ids='text'"),
    ],
)
def test_config_refuses_numbers_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_pattern_without_a_parameter_is_refused_with_the_names():
    with pytest.raises(ValueError, match="blocks/up"):
        optimizer.make(dataclasses.replace(CONFIG, trained=("block/*",)), PARAMS)
