"""Runs the real training step on made-up rows, and puts its time beside the estimate.

A pod's first ten minutes: same step, mesh and kernels as the run, no shards, no
checkpoints. The step is compiled once; the estimate is made of that very program.

    rehearsal.json   what `plan.json` holds, and "measured"
"""

from __future__ import annotations

import logging
import statistics
import time
from typing import Any

import jax
import ml_collections
import tqdm

from cm3leon_jax import cpu, devices, sharding, storage
from cm3leon_jax import vocab as vocab_lib
from cm3leon_jax.data import synthetic
from cm3leon_jax.jobs import folder, plan, recipe
from cm3leon_jax.plan import calibrate, compiler, report
from cm3leon_jax.train import hosts, meeting, program

_LOGGER = logging.getLogger(__name__)
_REHEARSAL = "rehearsal.json"
_WARM_UP = 2  # steps that are not measured


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Runs `config.rehearsal.num_steps` steps on made-up rows.

    Raises:
      ValueError: If model, rows and mesh do not fit each other.
    """
    meeting.join()
    if not folder.start(config, workdir):
        return
    cpu.use_devices(config.num_cpu_devices)
    platform = jax.default_backend()
    vocab = vocab_lib.Vocab(**config.rehearsal.vocab)
    model = recipe.model(config, vocab, is_cpu=platform == "cpu")
    made = plan.make_program(config, model, jax.devices(), platform, vocab=vocab)
    device = _device(config, made, model)
    planned = plan.describe(config, "here", device, (), jax.device_count(), model)
    shapes = program.batch_shapes(planned.num_rows, planned.length)
    compiled = compiler.compile_step(made, shapes)
    if compiled.memory is None:
        raise ValueError(
            f"the step needs {compiled.peak / 2**30:.1f} GiB a device; raise"
            " step.num_microbatches, or set model.remat='full'"
        )
    found = report.build(planned, compiled)
    batches = synthetic.Batches(
        vocab,
        num_rows=planned.num_rows // jax.process_count(),
        length=planned.length,
        seed=config.seed,
        host=jax.process_index(),
    )
    seconds, loss = _steps(config, made, compiled.executable, batches)
    measured = {
        "seconds": seconds,
        "loss": loss,
        "estimate_over_measured": found["roofline"]["seconds"] / seconds,
    } | report.speed(planned, seconds)
    found["measured"] = measured
    if hosts.is_first():
        storage.write_json(storage.place(workdir) / _REHEARSAL, found)
        print(report.table(found))
        print(_measured(measured))
        folder.finish(workdir, measured)


def _steps(
    config: ml_collections.ConfigDict,
    made: program.Program,
    step: Any,
    batches: synthetic.Batches,
) -> tuple[float, float]:
    """Returns the median seconds of a step, and the last loss."""
    now = made.init(jax.random.key(config.seed))
    times, metrics = [], {}
    for _ in tqdm.tqdm(range(_WARM_UP + config.rehearsal.num_steps), unit="step"):
        rows = sharding.put_batch(next(batches), made.mesh)
        jax.block_until_ready((now, rows))
        since = time.perf_counter()
        now, metrics = step(now, rows)
        jax.block_until_ready((now, metrics))
        times.append(time.perf_counter() - since)
    return statistics.median(times[_WARM_UP:]), float(metrics["loss"])


def _device(
    config: ml_collections.ConfigDict, made: program.Program, model: Any
) -> devices.Device:
    """The device here, from the table, or measured where it is not in the table."""
    one = made.mesh.devices.flat[0]
    known = devices.of_kind(one.device_kind)
    if known:
        return known
    rows = config.loader.batch_size // config.step.num_microbatches
    shares = made.mesh.shape["data"] * made.mesh.shape["fsdp"]
    _LOGGER.info("%s is in no table; measuring what it reaches", one.device_kind)
    return calibrate.measure(
        made.mesh,
        tokens=max(1, rows // shares) * config.loader.max_length,
        width=model.model_dim,
        wide=model.mlp_dim,
        dtype=model.product_dtype or model.dtype,
        memory_bytes=calibrate.host_memory_bytes() / made.mesh.size,
    )


def _measured(measured: dict[str, float]) -> str:
    ratio = measured["estimate_over_measured"]
    return (
        f"{'a step, measured':<24} {measured['seconds']:.3f} s, estimate {ratio:.2f}"
        f" times that; {measured['tokens_per_second']:,.0f} tokens/s, utilisation"
        f" {measured['utilisation']:.1%}"
    )
