"""Trains the transformer: pretraining and instruction tuning are two sets of numbers.

    shards --pipeline--> packed rows --step--> state --> checkpoints, metrics.jsonl,
                                                         previews/, tensorboard/, profile/

Starting from another run's weights (`init_from`) and resuming a run (the same
workdir) are two things: the first begins at step 0 with fresh moments and data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import optax

from cm3leon_jax import cpu, sharding, storage
from cm3leon_jax.data import pipeline, shards, streams
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.jobs import folder, mixing, preview, recipe, resumption
from cm3leon_jax.models import kernels, transformer
from cm3leon_jax.train import (
    checkpoint,
    export,
    guard,
    heartbeat,
    hosts,
    loop,
    meeting,
    metrics,
    program,
    state,
    step,
    watch,
    writers,
)

_LOGGER = logging.getLogger(__name__)
METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a run is made of, once its config is resolved."""

    info: shards.SetInfo
    model: transformer.TransformerConfig
    loader: streams.LoaderConfig
    step: step.StepConfig
    mesh: jax.sharding.Mesh
    update: optax.GradientTransformation
    attention: kernels.Attention  # of the training rows
    packed_attention: kernels.Attention  # of rows of several documents


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains until `config.loop.num_steps`, from the newest checkpoint if there is one.

    Raises:
      FileNotFoundError: If there are no shards, or no weights to start from.
      ValueError: If model, rows, mesh and shards do not fit each other.
      FloatingPointError: If the loss is not finite.
      SaveError: If a checkpoint cannot be written.
    """
    meeting.join()
    cpu.use_devices(config.num_cpu_devices)
    if not resumption.start(config, workdir):
        return
    with resumption.only_writer(workdir):
        _train(config, workdir)


def _train(config: ml_collections.ConfigDict, workdir: str) -> None:
    parts = _resolve(config)
    if hosts.is_first():
        mixing.announce(config, parts.loader, workdir)
    batches = _batches(config, parts, workdir)
    evaluate, writer = _Evaluation(config, parts), _writer(config, parts, workdir)
    draw = _preview(config, parts, workdir, writer)
    made = program.make(
        parts.model,
        parts.update,
        parts.step,
        parts.info.vocab,
        parts.mesh,
        attention=parts.attention,
        trained=tuple(config.optimizer.trained),
    )
    checkpointer = _checkpointer(config, parts, workdir)
    norm = jax.jit(optax.tree.norm)
    final = loop.run(
        _start(config, parts, made) if checkpointer.is_empty() else made.shapes,
        lambda now, rows: made.step(now, _put(rows, parts)),
        batches,
        num_steps=config.loop.num_steps,
        checkpointer=checkpointer,
        writer=writer,
        log_every=config.loop.log_every,
        save_every=config.loop.save_every,
        evaluate=evaluate,
        eval_every=config.loop.eval_every,
        draw=draw,
        draw_every=config.watch.draw_every,
        measure=lambda now: {"parameter_norm": norm(now.model)},
        inspect=guard.Inspector(list(checkpoint.flatten(made.shapes.model))),
        profile=watch.Profile(
            _path(workdir, "profile"),
            config.watch.profile_first_step,
            config.watch.profile_num_steps,
        ),
        pulse=heartbeat.Heartbeat(
            _path(workdir, heartbeat.FOLDER),
            num_steps=config.loop.num_steps,
            tokens_per_step=config.loader.batch_size * config.loader.max_length,
            every_seconds=config.watch.heartbeat_seconds,
            stall_seconds=config.watch.stall_seconds,
        ),
    )
    scores = evaluate.scores or evaluate(final)
    if hosts.is_first():
        folder.finish(workdir, scores)


def _checkpointer(
    config: ml_collections.ConfigDict, parts: _Parts, workdir: str
) -> checkpoint.Checkpointer:
    """Where this run's states go, and come from when it is started again."""
    return checkpoint.Checkpointer(
        _path(workdir, state.CHECKPOINTS),
        keep_last=config.loop.keep_last,
        keep_every=config.loop.keep_every,
        context=_context(config, workdir, parts),
        **config.saving.to_dict(),
    )


def _put(rows: packing.Batch, parts: _Parts) -> packing.Batch:
    """This host's rows on its devices, if the model knows their ids."""
    step.check(rows, parts.model.vocab_size, parts.model.max_length)
    return sharding.put_batch(rows, parts.mesh)


def _batches(
    config: ml_collections.ConfigDict, parts: _Parts, workdir: str
) -> resumption.Batches:
    """This host's batches, which know what they belong to."""
    loaded = pipeline.load(
        mixing.specs(config, "train"),
        parts.loader,
        info=parts.info,
        host_index=jax.process_index(),
        num_hosts=jax.process_count(),
        prefetch=config.prefetch.num_batches,
        num_workers=config.prefetch.num_workers,
    )
    return resumption.Batches(
        iter(loaded),
        {"versions": resumption.versions(), "shards": parts.info.to_json()},
        allowed=resumption.names(config),
        workdir=workdir,
    )


def _writer(
    config: ml_collections.ConfigDict, parts: _Parts, workdir: str
) -> metrics.Writer:
    """Where this run's numbers go."""
    sinks: list[metrics.AbstractSink] = []
    if config.watch.tensorboard and hosts.is_first():
        sinks.append(writers.TensorBoard(_path(workdir, "tensorboard")))
    if config.watch.wandb_project and hosts.is_first():
        place = storage.place(workdir)
        digest = hashlib.sha256(str(place).encode()).hexdigest()
        sinks.append(
            writers.WeightsAndBiases(
                config.watch.wandb_project,
                name=f"{place.name}-{digest[:8]}",
                folder=_path(workdir, "wandb"),
                config=storage.read_json(place / "config.json"),
            )
        )
    derive = watch.Derive(
        parts.model, parts.loader.max_length, watch.peak_flops(parts.mesh)
    )
    return metrics.Writer(_path(workdir, METRICS), sinks=sinks, derive=derive)


def _preview(
    config: ml_collections.ConfigDict,
    parts: _Parts,
    workdir: str,
    writer: metrics.Writer,
) -> Callable[[int, state.TrainState], None] | None:
    """What draws and captions every so many steps, or None if nothing does."""
    if not config.watch.draw_every:
        return None
    made = preview.load(
        config.shards,
        config.evaluation.set,
        config.watch.num_pictures,
        parts.info,
        is_tuned="caption" in config.sets and config.sets.caption > 0,
    )
    made.check(parts.model.max_length)
    return lambda done, now: made.draw(done, now.model, workdir, writer)


def _path(workdir: str, name: str) -> str:
    return str(storage.place(workdir) / name)


def _resolve(config: ml_collections.ConfigDict) -> _Parts:
    """Makes the frozen parts and refuses what does not fit, before any compilation."""
    if config.saving.best_metric and config.loop.eval_every % config.loop.save_every:
        raise ValueError(
            f"saving.best_metric={config.saving.best_metric!r} is known of steps that are"
            f" saved and evaluated: loop.eval_every={config.loop.eval_every} must be a"
            f" multiple of loop.save_every={config.loop.save_every}"
        )
    sources = [
        shards.open(spec.folder, spec.split) for spec in mixing.specs(config, "train")
    ]
    info = sources[0].info
    platform = jax.default_backend()
    model = recipe.model(config, info.vocab, is_cpu=platform == "cpu")
    loader = recipe.loader(config)
    if loader.max_length > model.max_length:
        raise ValueError(
            f"loader.max_length={loader.max_length} tokens a row need as many"
            f" positions; the longest is model.max_length={model.max_length}"
        )
    mesh = recipe.mesh(config, model)
    return _Parts(
        info=info,
        model=model,
        loader=loader,
        step=step.StepConfig(**config.step.to_dict()),
        mesh=mesh,
        update=recipe.update(config, model, info.vocab),
        attention=recipe.attention(config, model, mesh, platform),
        packed_attention=recipe.attention(
            config, model, mesh, platform, is_packed=True
        ),
    )


def _start(
    config: ml_collections.ConfigDict, parts: _Parts, made: program.Program
) -> state.TrainState:
    """Makes the first state on its devices, with another run's weights if asked."""
    start = made.init(jax.random.key(config.seed))
    if not config.init_from:
        return start
    given, context = export.load(config.init_from, like=start.model)
    theirs = context["shards"]  # None: weights that were converted, without vocabulary
    if theirs and shards.SetInfo.from_json(theirs).vocab != parts.info.vocab:
        raise ValueError(
            f"{config.init_from} was trained with another vocabulary than the shards"
            f" {config.shards} have; use shards of the same tokenizers"
        )
    recipe.check_same_function(config.init_from, given.config, parts.model)
    weights = state.fill(start.model, checkpoint.flatten(given))
    _LOGGER.info("weights from %s", config.init_from)
    return start._replace(model=weights)


class _Evaluation:
    """Perplexities by modality of held-out queries, by number of neighbours.

    Queries only are scored, plainly causal, so that the numbers of neighbours compare.

    Attributes:
      scores: What the last call returned.
    """

    def __init__(self, config: ml_collections.ConfigDict, parts: _Parts):
        """Reads the rows; compiles nothing yet."""
        self.scores: dict[str, float] = {}
        self._mesh = parts.mesh
        self._rows = {n: _held_out(config, n) for n in config.evaluation.neighbors}
        self._sums_of = jax.jit(
            step.evaluation(
                parts.step,
                parts.info.vocab,
                attention=parts.packed_attention,
                mesh=parts.mesh,
            )
        )

    def __call__(self, now: state.TrainState) -> dict[str, float]:
        """Returns the numbers of a state, which it leaves as it is."""
        self.scores = {}
        for number, batches in self._rows.items():
            total: dict[str, Any] = {}
            for batch in batches:
                # Fetched at once: no two programs with collectives at a time (`loop`).
                sums = jax.device_get(
                    self._sums_of(
                        now.model, sharding.put_batch(_own(batch), self._mesh)
                    )
                )
                total = jax.tree.map(lambda a, b: a + b, total, sums) if total else sums
            for name, value in step.means(total).items():
                self.scores[f"validation_{name}_{number}"] = value
        return self.scores


def _own(batch: packing.Batch) -> packing.Batch:
    """This host's share of a batch that every host has the whole of."""
    share = len(batch.tokens_BL) // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    return packing.Batch(*(x_BL[rows] for x_BL in batch))


def _held_out(config: ml_collections.ConfigDict, neighbors: int) -> list[Any]:
    loader = recipe.loader(
        config,
        packing="whole",
        neighbor_probs=(0.0,) * neighbors + (1.0,),
        cm3=cm3.CM3Config(span_rate=0.0),
        weights=packing.LossWeights(retrieved=0.0),
    )
    name = config.evaluation.set
    source = shards.open(pathlib.Path(config.shards) / name, "validation")
    # The same documents whatever the number of neighbours, so that numbers compare.
    return list(pipeline.one_pass(source, loader, config.evaluation.num_documents))


def _context(
    config: ml_collections.ConfigDict, workdir: str, parts: _Parts
) -> dict[str, Any]:
    """What is written into every checkpoint beside the state."""
    key = jax.random.key(config.seed)
    return {
        # The run's only randomness but the data's, which is by number (`streams`): what
        # a step would draw, it would draw from this key and its own number.
        "random_key": {
            "implementation": str(jax.random.key_impl(key)),
            "words": [int(word) for word in jax.random.key_data(key)],
        },
        "model": dataclasses.asdict(parts.model),
        "shards": parts.info.to_json(),
        "config": storage.read_json(storage.place(workdir) / "config.json"),
    }
