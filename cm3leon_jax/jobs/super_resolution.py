"""Trains a network that enlarges pictures, on a folder's pictures.

export/               the trained upscaler, see upscalers/rrdb.py
enlarged.png          held-out pictures: small, bicubic, the network's, the original
checkpoints/          where an interrupted training continues
metrics.jsonl         losses, quality on the validation split beside bicubic
refusals.json         pictures that could not be used
"""

from __future__ import annotations

import functools
import io
import pathlib

import jax
import ml_collections
import numpy as np
from PIL import Image

from cm3leon_jax import cpu, sharding, storage
from cm3leon_jax.convert import lpips
from cm3leon_jax.data import degradation, gallery, pairs, pictures, splits
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.evals import enlargement
from cm3leon_jax.jobs import folder
from cm3leon_jax.models import discriminator, super_resolution
from cm3leon_jax.models import lpips as lpips_lib
from cm3leon_jax.models.super_resolution import SuperResolutionConfig
from cm3leon_jax.scenes.world import WorldConfig
from cm3leon_jax.tokenizers import image
from cm3leon_jax.train import checkpoint, hosts, loop, meeting, metrics, players
from cm3leon_jax.train import super_resolution as training
from cm3leon_jax.upscalers import rrdb

SHEET = "enlarged.png"
_SHEET_ROWS = 6


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains, measures on the validation split, exports.

    Raises:
      FileNotFoundError: If there are no pictures, or no tokenizer where one is named.
      ValueError: If there are too few pictures, sizes do not fit, or the batch does
        not divide among the devices.
      FloatingPointError: If a loss is not finite.
    """
    meeting.join()
    if not folder.start(config, workdir):
        return
    cpu.use_devices(config.num_cpu_devices)
    cpu.keep_freed_memory()
    sharding.check_batch(config.batch_size)
    root = pathlib.Path(workdir)
    shape = SuperResolutionConfig(**config.model)
    optimizer = players.OptimizerConfig(
        num_steps=config.loop.num_steps, **config.optimizer
    )
    loss = training.LossConfig(**config.loss)
    judge = discriminator.DiscriminatorConfig(**config.discriminator)
    put_state, put_batch = players.placement()
    network = lpips.read(config.lpips) if config.lpips else None
    judging = put_state(network)
    refusals = Refusals()
    train, held_out = (
        _read(config, split, refusals) for split in (splits.TRAIN, splits.VALIDATION)
    )
    if hosts.is_first():
        storage.write_json(root / "refusals.json", refusals.to_json())
    batches = _pairs(config, train)
    evaluate = functools.partial(
        _evaluate, config, held_out[: config.num_evaluated], network, root
    )
    one_step = jax.jit(training.make_step(loss, optimizer), donate_argnums=0)
    first = _first(config, shape)
    final = loop.run(
        put_state(
            training.init(shape, judge, loss, optimizer, seed=config.seed, model=first)
        ),
        lambda state, pair: one_step(
            state, put_batch(pair.small), put_batch(pair.large), judging
        ),
        batches,
        num_steps=config.loop.num_steps,
        checkpointer=checkpoint.Checkpointer(str(root / "checkpoints")),
        writer=metrics.Writer(str(root / "metrics.jsonl")),
        log_every=config.loop.log_every,
        save_every=config.loop.save_every,
        evaluate=evaluate,
        eval_every=config.loop.eval_every,
    )
    summary, model = evaluate(final), _averaged(final)
    if hosts.is_first():
        rrdb.save(model, root / rrdb.EXPORT)
        print("  ".join(f"{name}: {value:.3f}" for name, value in summary.items()))
        folder.finish(workdir, summary)


def _first(
    config: ml_collections.ConfigDict, shape: SuperResolutionConfig
) -> super_resolution.SuperResolution | None:
    """The network to start from, if the config names one."""
    if not config.start_from:
        return None
    model = rrdb.load_model(config.start_from)
    folder.check_shape(config.start_from, model.config.to_json(), shape.to_json())
    return model


def _pairs(config: ml_collections.ConfigDict, train: np.ndarray) -> pairs.Pairs:
    """Batches of degraded and tokenised pictures beside their originals."""
    return pairs.Pairs(
        train,
        _tokenised(config, train),
        degradation.DegradationConfig(**config.degradation),
        scale=config.model.scale,
        batch_size=config.batch_size,
        crop_size=config.crop_size,
        tokenised_share=config.tokenised_share if config.tokenizer else 0.0,
        seed=config.seed,
    )


def _read(
    config: ml_collections.ConfigDict, split: str, refusals: Refusals
) -> np.ndarray:
    """Reads a split's large pictures: uint8[N, Y, X, 3]."""
    rule = pictures.PictureConfig(
        image_size=config.pictures.image_size, min_side=config.pictures.min_side
    )
    return gallery.read(
        config.pictures.folder,
        split,
        splits.SplitConfig(**config.splits),
        rule,
        refusals,
        num_threads=config.num_threads,
    ).pictures


def _tokenised(
    config: ml_collections.ConfigDict, large_NYXC: np.ndarray
) -> np.ndarray | None:
    """What the tokenizer makes of the pictures' reductions; None without a tokenizer."""
    if not config.tokenizer:
        return None
    tokenizer = image.ImageTokenizer.load(config.tokenizer, batch_size=16)
    scale = config.model.scale
    if tokenizer.image_size * scale != config.pictures.image_size:
        raise ValueError(
            f"the image tokenizer makes pictures of {tokenizer.image_size} pixels, which"
            f" {scale} times larger are not pictures.image_size ="
            f" {config.pictures.image_size}; set it to {tokenizer.image_size * scale}"
        )
    small = np.stack([degradation.reduced(picture, scale) for picture in large_NYXC])
    return tokenizer.decode(tokenizer.encode(small))


def _averaged(state: training.State) -> super_resolution.SuperResolution:
    """The averaged network as this host's own, which it may use without the others."""
    return jax.device_get(training.averaged(state))


def _evaluate(
    config: ml_collections.ConfigDict,
    held_out_NYXC: np.ndarray,
    network: lpips_lib.Lpips | None,
    root: pathlib.Path,
    state: training.State,
) -> dict[str, float]:
    """Measures the averaged weights beside bicubic; writes the sheet.

    The small pictures are what it will meet: the tokenizer's, where there is one, else
    plain reductions.
    """
    upscaler = rrdb.Upscaler(_averaged(state))
    scale = upscaler.scale
    small = _tokenised(config, held_out_NYXC)
    if small is None:
        small = np.stack([degradation.reduced(one, scale) for one in held_out_NYXC])
    bicubic = np.stack([degradation.enlarged(one, scale) for one in small])
    enlarged = upscaler.enlarge(small)
    if hosts.is_first():
        page = sheet(small, bicubic, enlarged, held_out_NYXC)
        storage.write_bytes(root / SHEET, page)
    found = enlargement.evaluate(held_out_NYXC, enlarged, bicubic, network)
    world = pathlib.Path(config.pictures.folder) / "world.json"
    if world.exists():  # pictures of the built-in world
        described = WorldConfig(**storage.read_json(world))
        if described.image_size == held_out_NYXC.shape[1]:
            found |= enlargement.judged(held_out_NYXC, enlarged, bicubic, described)
    return found


def sheet(
    small_NYXC: np.ndarray,
    bicubic_NYXC: np.ndarray,
    enlarged_NYXC: np.ndarray,
    originals_NYXC: np.ndarray,
) -> bytes:
    """Returns a PNG, a row a picture: small (pixels repeated), bicubic, ours, original.

    Args:
      small_NYXC: uint8[N, Y, X, 3]; the first six are shown.
      bicubic_NYXC: uint8[N, scale Y, scale X, 3].
      enlarged_NYXC: uint8[N, scale Y, scale X, 3].
      originals_NYXC: uint8[N, scale Y, scale X, 3].
    """
    scale = originals_NYXC.shape[1] // small_NYXC.shape[1]
    repeated = small_NYXC.repeat(scale, axis=1).repeat(scale, axis=2)
    columns = (repeated, bicubic_NYXC, enlarged_NYXC, originals_NYXC)
    rows = np.concatenate([part[:_SHEET_ROWS] for part in columns], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(rows))).save(buffer, "PNG")
    return buffer.getvalue()
