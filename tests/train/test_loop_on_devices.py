"""On CPU devices one program runs at a time: two with collectives would deadlock."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cm3leon_jax import sharding
from cm3leon_jax.train import checkpoint, loop, metrics


class Endless:
    """The same batch again: the data are not what is looked at."""

    def __next__(self):
        return np.float32(1)

    def get_state(self):
        return {}

    def set_state(self, state):
        del state


def test_no_program_starts_before_the_last_one_ended(tmp_path):
    """Two programs in flight wait for each other's threads, for ever."""
    mesh = sharding.make_mesh(sharding.MeshConfig())
    place = NamedSharding(mesh, PartitionSpec("fsdp"))

    @jax.jit
    def slow(x):
        for _ in range(20):  # long enough to be still running when it returns
            x = jnp.tanh(x @ x.T @ x) / 100 + x.mean()  # the mean is of all devices
        return x, {"loss": x.sum()}

    @jax.jit
    def measured(x):
        return {"norm": jnp.square(x).sum(), "loss": x.mean()}

    in_flight, overlaps = [], []

    def watched(name, program):
        def call(x, *_):
            overlaps.extend(
                f"{name} beside {other}"
                for other, leaf in in_flight
                if not leaf.is_ready()
            )
            found = program(x)
            in_flight[:] = [(name, leaf) for leaf in jax.tree.leaves(found)]
            return found

        return call

    evaluate = watched("evaluation", measured)
    loop.run(
        jax.device_put(np.ones((256, 256), np.float32), place),
        watched("step", slow),
        Endless(),
        num_steps=6,
        checkpointer=checkpoint.Checkpointer(tmp_path / "checkpoints"),
        writer=metrics.Writer(tmp_path / "metrics.jsonl"),
        log_every=1,
        save_every=6,
        # On every device: the copy that is fetched may be there before the others.
        evaluate=lambda x: jax.device_get(jax.block_until_ready(evaluate(x))),
        eval_every=2,
        measure=watched("measure", measured),
    )
    assert not overlaps
