"""A step that must not count changes nothing, and says why."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cm3leon_jax.train import checkpoint, guard, loop, metrics

START = {"a": jnp.array([0.5, -0.0]), "b": jnp.array([[1.0, -2.0]])}


def make(**fields):
    config = guard.GuardConfig(**{"action": "skip"} | fields)
    optimizer = guard.wrap(optax.adamw(0.1, weight_decay=0.1), config)

    @jax.jit
    def step(state, batch):
        loss, gradient = batch["loss"], batch["gradient"]
        updates, moments = optimizer.update(gradient, state[1], state[0], value=loss)
        values = {"loss": loss, "tokens": jnp.ones(())} | guard.metrics(moments)
        return (optax.apply_updates(state[0], updates), moments), values

    return (START, optimizer.init(START)), step


def batch(loss=1.0, bad=None, value=jnp.nan):
    gradient = jax.tree.map(jnp.ones_like, START)
    if bad:
        gradient[bad] = gradient[bad].at[..., -1].set(value)
    return {"loss": jnp.float32(loss), "gradient": gradient}


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("bad", [{"bad": "b"}, {"bad": "a", "value": jnp.inf}])
@pytest.mark.parametrize("action", ["skip", "stop"])
def test_gradient_that_is_not_finite_changes_no_bit_and_is_named(action, bad):
    state, step = make(action=action)
    state, _ = step(state, batch())
    after, values = step(state, batch(**bad))
    assert bits(after[0]) == bits(state[0])
    assert bits(after[1].inner) == bits(state[1].inner)
    assert values[guard.BAD_ARRAY] == ["a", "b"].index(bad["bad"])
    assert values[metrics.SKIPPED] == 1
    assert values[guard.HALTED] == (action == "stop")


def test_gradient_that_is_not_finite_on_one_device_changes_none():
    mesh = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    put = lambda x: jax.device_put(jnp.asarray(x, jnp.float32), rows)
    optimizer = guard.wrap(optax.adamw(0.1), guard.GuardConfig(action="skip"))
    weights = {"a": put(np.arange(8)), "b": put(np.arange(16).reshape(8, 2))}
    moments = jax.jit(optimizer.init)(weights)

    @jax.jit
    def step(weights, moments, gradient):
        updates, moments = optimizer.update(
            gradient, moments, weights, value=jnp.ones(())
        )
        return optax.apply_updates(weights, updates), guard.metrics(moments)

    for device, number in ((7, jnp.nan), (0, jnp.inf), (3, 1.0)):
        gradient = np.ones((8, 2))
        gradient[device, 1] = number  # in the part that one of them holds
        gradient = {"a": put(np.ones(8)), "b": put(gradient)}
        after, values = step(weights, moments, gradient)
        is_skipped = device != 3
        assert (bits(after) == bits(weights)) == is_skipped
        assert values[metrics.SKIPPED] == is_skipped
        assert values[guard.BAD_ARRAY] == (1 if is_skipped else -1)


def test_halted_state_changes_no_more_until_the_host_has_seen_it():
    state, step = make(action="stop")
    halted, _ = step(state, batch(loss=jnp.nan))
    later, values = step(halted, batch())
    assert bits(later[0]) == bits(START) and values[guard.HALTED] == 1


def test_skipped_step_is_as_if_its_batch_had_not_been():
    state, step = make()
    whole, _ = step(step(state, batch(1.0))[0], batch(2.0))
    other, _ = step(step(step(state, batch(1.0))[0], batch(bad="a"))[0], batch(2.0))
    assert bits(whole[0]) == bits(other[0])
    assert bits(whole[1].inner) == bits(other[1].inner)


@pytest.mark.parametrize("length", [1, 10])
def test_spikes_are_skipped_and_do_not_raise_the_mean(length):
    state, step = make(spike_factor=3.0, spike_after=5)
    for _ in range(6):
        state, values = step(state, batch())
    before = state
    for _ in range(length):
        state, values = step(state, batch(loss=100.0))
        assert values[metrics.SKIPPED] == 1 and values[guard.BAD_ARRAY] == -1
    assert bits(state[0]) == bits(before[0])
    assert float(state[1].mean_loss) == pytest.approx(1.0)
    state, values = step(state, batch())
    assert values[metrics.SKIPPED] == 0 and bits(state[0]) != bits(before[0])


def test_too_many_in_a_row_halt():
    state, step = make(max_in_a_row=2)
    seen = []
    for _ in range(4):
        state, values = step(state, batch(bad="a"))
        seen.append(int(values[guard.HALTED]))
    assert seen == [0, 0, 1, 1]


class Batches:
    """Batches by number; some of them poisoned."""

    def __init__(self, poisoned):
        self._index, self._poisoned = 0, poisoned

    def __next__(self):
        self._index += 1
        return batch(bad="b" if self._index in self._poisoned else None)

    def get_state(self):
        return self._index

    def set_state(self, state):
        self._index = state


def run(folder, poisoned, num_steps=8, **fields):
    state, step = make(**fields)
    return loop.run(
        state,
        step,
        Batches(poisoned),
        num_steps=num_steps,
        checkpointer=checkpoint.Checkpointer(folder / "checkpoints"),
        writer=metrics.Writer(folder / "metrics.jsonl"),
        log_every=2,
        save_every=3,
        inspect=guard.Inspector(["a", "b"]),
    )


def test_run_goes_on_over_bad_steps_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        final = run(tmp_path, poisoned=(3, 5, 6))
    assert int(final[1].num_applied) == 5
    assert "step 3 changed nothing" in caplog.text
    assert "the gradient of 'b' is not finite" in caplog.text
    entries = metrics.read(tmp_path / "metrics.jsonl")
    assert [entry[metrics.SKIPPED] for entry in entries] == [0, 0.5, 1, 0]
    assert [entry.get("loss") for entry in entries] == [1.0, 1.0, None, 1.0]
    # A resumed run decides the same.
    with pytest.raises(MemoryError):
        run_to_death(tmp_path / "parts")
    again = run(tmp_path / "parts", poisoned=(3, 5, 6))
    assert bits(again) == bits(final)


def run_to_death(folder):
    class Dying(Batches):
        def __next__(self):
            if self._index == 5:
                raise MemoryError
            return super().__next__()

    state, step = make()
    loop.run(
        state,
        step,
        Dying((3, 5, 6)),
        num_steps=8,
        checkpointer=checkpoint.Checkpointer(folder / "checkpoints"),
        writer=metrics.Writer(folder / "metrics.jsonl"),
        save_every=3,
    )


def test_run_that_stops_names_the_array_and_keeps_what_was_logged(tmp_path):
    with pytest.raises(FloatingPointError, match=r"step 5 .* gradient of 'b'"):
        run(tmp_path, poisoned=(5,), action="stop")
    assert checkpoint.read(tmp_path / "checkpoints").step == 3
    assert metrics.read(tmp_path / "metrics.jsonl")[-1]["step"] >= 5


@pytest.mark.parametrize("fields", [{"action": "hope"}, {"spike_factor": 0.5}])
def test_impossible_guards_are_refused(fields):
    with pytest.raises(ValueError, match=r"guard\."):
        guard.GuardConfig(**fields)
