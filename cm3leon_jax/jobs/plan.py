"""Plans a pretraining run on a pod that is not there: does it fit, what does it cost.

config --> the step on the pod's mesh --libtpu--> accounts --> plan.json, a table
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from cm3leon_jax import sharding, storage
from cm3leon_jax import vocab as vocab_lib
from cm3leon_jax.jobs import folder, recipe
from cm3leon_jax.models import clip, transformer, vqgan
from cm3leon_jax.plan import compiler, corpus, report, search, topology
from cm3leon_jax.train import program, step

_LOGGER = logging.getLogger(__name__)
_VOCAB = vocab_lib.Vocab()  # a plan has no shards that say another
_PLAN = "plan.json"
_PROGRAM = "step.hlo.gz"  # the compiled program's text


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Compiles `config.run` for `config.topology` and writes the plan.

    Raises:
      ValueError: If there is no such topology, or the run does not divide among its
        chips, both before any compilation; or if libtpu is missing.
    """
    slice_ = topology.parse(config.topology)
    if not folder.start(config, workdir):
        return
    # libtpu compiles here: nothing may look for a TPU, ask a cloud for its name, or
    # keep others on this machine from compiling.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    chips = topology.chips(slice_)
    model = recipe.model(config.run, _VOCAB, is_cpu=False)
    planned = describe(
        config.run, slice_.name, slice_.device, slice_.shape, slice_.num_chips, model
    )
    made = make_program(config.run, model, chips, "tpu")
    _LOGGER.info("compiling for %s, as configured", slice_.name)
    plan = _compile(planned, made, workdir)
    plan["settings"] = _settings(config.run)
    if not plan["fits"]:
        plan |= _search(config, planned, chips, workdir)
    plan["corpus"] = _corpus_hours(config.corpus, slice_)
    storage.write_json(pathlib.Path(workdir) / _PLAN, plan)
    print(report.table(plan))
    print(corpus.table(plan["corpus"]))
    for line in plan.get("search", []):
        print(_tried(line))
    folder.finish(workdir, {"fits": plan["fits"], "peak": plan["memory"]["peak"]})


def _compile(
    planned: report.Run, made: program.Program, workdir: str
) -> dict[str, Any]:
    """Compiles a step and returns its plan; the program's text is kept."""
    rows = program.batch_shapes(planned.num_rows, planned.length)
    compiled = compiler.compile_step(made, rows, "tpu")
    if compiled.text:
        with gzip.open(pathlib.Path(workdir) / _PROGRAM, "wt") as file:
            file.write(compiled.text)
    return report.build(planned, compiled)


def _corpus_hours(
    config: ml_collections.ConfigDict, slice_: topology.Topology
) -> dict[str, float]:
    """Hours of the jobs before training."""
    fields = config.to_dict()
    tokenizer = vqgan.VqganConfig(**fields.pop("image_tokenizer"))
    embedder = clip.SHAPES[fields.pop("embedder")]
    return corpus.hours(
        corpus.CorpusConfig(**fields),
        tokenizer,
        embedder,
        slice_.device,
        slice_.num_chips,
    )


def describe(
    config: ml_collections.ConfigDict,
    name: str,
    device: Any,
    shape: tuple[int, ...],
    num_devices: int,
    model: transformer.TransformerConfig,
) -> report.Run:
    """Returns what a training config trains, on given devices."""
    rows, length = config.loader.batch_size, config.loader.max_length
    return report.Run(
        name=name,
        device=device,
        shape=shape,
        num_devices=num_devices,
        model=model,
        num_rows=rows,
        length=length,
        tokens=float(config.loop.num_steps) * rows * length,
    )


def make_program(
    config: ml_collections.ConfigDict,
    model: transformer.TransformerConfig,
    chips: Sequence[Any],
    platform: str,
    *,
    vocab: vocab_lib.Vocab = _VOCAB,
    setting: search.Setting | None = None,
) -> program.Program:
    """Returns the step of a training config on given devices.

    Args:
      config: of the run.
      model: from `recipe.model`.
      chips: devices, which need not be there.
      platform: "tpu", "gpu" or "cpu", for the choice of kernels.
      vocab: of the shards.
      setting: what to change; None for the run as it is configured.
    """
    given = sharding.MeshConfig(**config.mesh.to_dict())
    axes = given if len(chips) > 1 else sharding.MeshConfig()
    pieces = config.step.to_dict()
    if setting:
        model = dataclasses.replace(model, remat=setting.remat)
        axes = search.mesh_config(setting, axes)
        pieces["num_microbatches"] = setting.num_microbatches
    mesh = recipe.mesh(
        config, model, chips, axes=axes, num_microbatches=pieces["num_microbatches"]
    )
    return program.make(
        model,
        recipe.update(config, model, vocab),
        step.StepConfig(**pieces),
        vocab,
        mesh,
        attention=recipe.attention(config, model, mesh, platform),
        trained=tuple(config.optimizer.trained),
    )


def _search(
    config: ml_collections.ConfigDict,
    planned: report.Run,
    chips: Sequence[Any],
    workdir: str,
) -> dict[str, Any]:
    """Finds settings that fit: estimates all, compiles the fastest until one does.

    Returns:
      "search", the compiled ones as plans of their own with estimates, and "found",
      the settings of the first that fits, or None.
    """
    tried: list[dict[str, Any]] = []
    ranked = search.rank(estimates(config, planned), planned.device.memory_bytes)
    for candidate in ranked[: config.search.max_compiles]:
        _LOGGER.info("compiling with %s", candidate.setting)
        made = make_program(
            config.run, planned.model, chips, "tpu", setting=candidate.setting
        )
        found = _compile(planned, made, workdir) | {
            "settings": dataclasses.asdict(candidate.setting),
            "estimated_bytes": candidate.bytes,
            "estimated_seconds": candidate.seconds,
        }
        tried.append(found)
        if found["fits"]:
            return {"search": tried, "found": found["settings"]}
    return {"search": tried, "found": None}


def estimates(
    config: ml_collections.ConfigDict, planned: report.Run
) -> list[search.Candidate]:
    """Every setting of the search with its estimated memory and time."""
    settings = search.settings(
        num_rows=planned.num_rows,
        num_devices=planned.num_devices,
        remats=config.search.remats,
        tensors=config.search.tensors,
        num_heads=planned.model.num_heads,
    )
    traced = functools.cache(
        lambda remat, pieces: _trace(config.run, planned, remat, pieces)
    )
    return [
        search.estimate(
            setting,
            lambda one: traced(one.remat, one.num_microbatches),
            model=planned.model,
            config=step.StepConfig(**config.run.step.to_dict()),
            device=planned.device,
            num_devices=planned.num_devices,
            num_rows=planned.num_rows,
            length=planned.length,
        )
        for setting in settings
    ]


def _trace(
    config: ml_collections.ConfigDict, planned: report.Run, remat: str, pieces: int
) -> Any:
    """The step of a setting, traced on one device, where nothing is cut."""
    setting = search.Setting(remat, pieces, tensor=1)
    made = make_program(
        config, planned.model, jax.devices()[:1], "tpu", setting=setting
    )
    rows = program.batch_shapes(planned.num_rows, planned.length)
    return compiler.trace(made, rows)


def _settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return {
        "remat": config.model.remat,
        "num_microbatches": config.step.num_microbatches,
        "tensor": config.mesh.tensor,
    }


def _tried(found: dict[str, Any]) -> str:
    """One line of the search."""
    words = " ".join(f"{name}={value}" for name, value in found["settings"].items())
    verdict = "fits" if found["fits"] else "does not fit"
    peak, seconds = found["memory"]["peak"] / 2**30, found["estimated_seconds"]
    if "roofline" in found:
        seconds = found["roofline"]["seconds"]
    return (
        f"compiled {words:<40} {verdict}: {peak:.2f} GiB, about {seconds:.2f} s a step"
    )
