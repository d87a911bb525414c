"""Trains an image tokenizer on a folder's pictures.

export/               the trained tokenizer, see tokenizers/image.py
reconstructions.png   held-out originals, each above its reconstruction
checkpoints/          where an interrupted training continues
metrics.jsonl         losses, codebook usage, quality on the validation split
refusals.json         pictures that could not be used
"""

from __future__ import annotations

import functools
import io
import pathlib
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from cm3leon_jax import cpu, sharding, storage
from cm3leon_jax.convert import lpips
from cm3leon_jax.data import crops, gallery, pictures, shuffled, splits
from cm3leon_jax.data.refusals import Refusals, RefusedError
from cm3leon_jax.data.sources import folder as source
from cm3leon_jax.embedders import clip
from cm3leon_jax.evals import crowd, reconstruction
from cm3leon_jax.jobs import folder
from cm3leon_jax.models import discriminator, vqgan
from cm3leon_jax.models import lpips as lpips_lib
from cm3leon_jax.tokenizers import image
from cm3leon_jax.train import (
    checkpoint,
    codebook,
    hosts,
    loop,
    meeting,
    metrics,
    perceptual,
    pixel_guard,
    pixels,
    players,
)

SHEET = "reconstructions.png"
_SHEET_COLUMNS, _SHEET_ROWS = 12, 4
_SHEET_SCALE = 2


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains, measures on the validation split, exports.

    Raises:
      FileNotFoundError: If there are no pictures.
      ValueError: If there are too few pictures, the shape is impossible, or the batch
        does not divide among the devices.
      FloatingPointError: If a loss is not finite, or the guard sees a collapse.
    """
    meeting.join()
    if not folder.start(config, workdir):
        return
    cpu.use_devices(config.num_cpu_devices)
    cpu.keep_freed_memory()
    sharding.check_batch(config.batch_size)
    root = pathlib.Path(workdir)
    shape = vqgan.VqganConfig(**config.model)
    optimizer = players.OptimizerConfig(
        num_steps=config.loop.num_steps, **config.optimizer
    )
    loss = pixels.LossConfig(**config.loss)
    step = pixels.make_step(loss, codebook.CodebookConfig(**config.codebook), optimizer)
    first = _first(config, shape)
    network, encoder = _perceptual_network(config), _features(config)
    refusals = Refusals()
    (train, boxes), (held_out, _) = (
        _read(config, split, refusals) for split in (splits.TRAIN, splits.VALIDATION)
    )
    if hosts.is_first():
        storage.write_json(root / "refusals.json", refusals.to_json())
    evaluate = functools.partial(
        _evaluate, held_out[: config.num_evaluated], network, encoder, root
    )
    guard = pixel_guard.PixelGuard(pixel_guard.PixelGuardConfig(**config.guard))
    put_state, put_batch = players.placement()
    one_step, judging = jax.jit(step, donate_argnums=0), put_state(network)

    def take(state: pixels.PixelState, rows: np.ndarray):
        """One step on the pictures of these numbers."""
        aids = pixels.Aids(jax.tree.map(lambda x: put_batch(x[rows]), boxes), judging)
        return one_step(state, put_batch(train[rows]), aids)

    final = loop.run(
        put_state(_start(config, shape, optimizer, first)),
        take,
        shuffled.Shuffled(np.arange(len(train)), config.batch_size, seed=config.seed),
        num_steps=config.loop.num_steps,
        checkpointer=checkpoint.Checkpointer(str(root / "checkpoints")),
        writer=metrics.Writer(str(root / "metrics.jsonl")),
        log_every=config.loop.log_every,
        save_every=config.loop.save_every,
        evaluate=evaluate,
        eval_every=config.loop.eval_every,
        inspect=guard.inspect,
    )
    _conclude(workdir, _averaged(final), evaluate(final))


def _conclude(workdir: str, model: vqgan.Vqgan, summary: dict[str, float]) -> None:
    """Writes what came out, on the host that writes."""
    if hosts.is_first():
        image.save(model, pathlib.Path(workdir) / image.EXPORT)
        print("  ".join(f"{name}: {value:.3f}" for name, value in summary.items()))
        folder.finish(workdir, summary)


def _first(
    config: ml_collections.ConfigDict, shape: vqgan.VqganConfig
) -> vqgan.Vqgan | None:
    """The tokenizer to start from, if the config names one."""
    if not config.start_from:
        return None
    model = image.load_model(config.start_from)
    folder.check_shape(config.start_from, model.config.to_json(), shape.to_json())
    return model


def _start(
    config: ml_collections.ConfigDict,
    shape: vqgan.VqganConfig,
    optimizer: players.OptimizerConfig,
    first: vqgan.Vqgan | None,
) -> pixels.PixelState:
    """The state before the first step."""
    return pixels.init(
        shape,
        discriminator.DiscriminatorConfig(**config.discriminator),
        pixels.LossConfig(**config.loss),
        optimizer,
        seed=config.seed,
        model=first,
        num_latents=config.batch_size * shape.codes_per_image,
    )


def _perceptual_network(config: ml_collections.ConfigDict) -> lpips_lib.Lpips | None:
    """LPIPS where its weights are given; refuses a weight of a term without them."""
    if config.loss.lpips_weight and not config.lpips:
        raise ValueError(
            f"loss.lpips_weight={config.loss.lpips_weight} needs LPIPS' weights; name"
            " their files in config.lpips, or set it to 0 (the gradient pyramid stands"
            " in by loss.gradient_pyramid_weight)"
        )
    return lpips.read(config.lpips) if config.lpips else None


def _features(config: ml_collections.ConfigDict) -> crowd.Encoder:
    """Of which features the Frechet distance is."""
    chosen = config.features
    if chosen.inception and chosen.embedder:
        raise ValueError(
            "features.inception and features.embedder are both given; the Frechet"
            " distance is of one of them"
        )
    if chosen.inception:
        return crowd.from_inception(chosen.inception)
    if chosen.embedder:
        embedder = clip.ClipEmbedder.load(chosen.embedder)
        return crowd.from_vectors(embedder.embed_pictures, "clip")
    return crowd.from_blocks()


def _read(
    config: ml_collections.ConfigDict, split: str, refusals: Refusals
) -> tuple[np.ndarray, perceptual.Crops | None]:
    """Reads a split's pictures and those that its columns name, and the first's boxes.

    Returns:
      uint8[N, Y, X, 3], and boxes where they count more than the rest.
    """
    rule = pictures.PictureConfig(
        image_size=config.model.image_size, min_side=config.pictures.min_side
    )
    found = gallery.read(
        config.pictures.folder,
        split,
        splits.SplitConfig(**config.splits),
        rule,
        refusals,
        num_threads=config.num_threads,
    )
    files = [
        path
        for row in found.rows
        for path in _named_files(row, config.pictures.columns, refusals)
    ]
    with futures.ThreadPoolExecutor(config.num_threads) as pool:
        more = list(pool.map(lambda path: _load(path, rule, refusals), files))
    read = np.concatenate([found.pictures, *(picture for picture in more)])
    return read, _crops(config, found.rows, len(read), rule, refusals)


def _crops(
    config: ml_collections.ConfigDict,
    rows: Sequence[source.Row],
    num_pictures: int,
    rule: pictures.PictureConfig,
    refusals: Refusals,
) -> perceptual.Crops | None:
    """The boxes of the rows' pictures, those without any weighing nothing."""
    objects = crops.CropConfig(**config.objects)
    if not objects.is_used:
        return None
    boxes, weights = crops.read(rows, objects, rule, refusals)
    missing = num_pictures - len(rows)  # pictures of further columns have no boxes
    return perceptual.Crops(
        np.pad(boxes, ((0, missing), (0, 0), (0, 0))),
        np.pad(weights, ((0, missing), (0, 0))),
    )


def _named_files(row: source.Row, columns: Any, refusals: Refusals):
    """Yields the files of a row's further pictures, `{"file_name": ...}`."""
    for column in columns:
        entry = row.columns.get(column)
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            try:
                yield source.check_inside(row.root.resolve(), entry["file_name"])
            except RefusedError as error:
                refusals.refuse(f"{row.path}, column {column}", error)


def _load(
    path: pathlib.Path, rule: pictures.PictureConfig, refusals: Refusals
) -> np.ndarray:
    """Reads one picture: uint8[1, Y, X, 3], or none of them if it is refused."""
    try:
        picture = pictures.load(path, rule)[None]
    except RefusedError as error:
        refusals.refuse(str(path), error)
        return np.zeros((0, rule.image_size, rule.image_size, 3), np.uint8)
    refusals.accepted += 1
    return picture


def _averaged(state: pixels.PixelState) -> vqgan.Vqgan:
    """The averaged network as this host's own, which it may use without the others."""
    return jax.device_get(pixels.averaged(state))


def _evaluate(
    held_out_NYXC: np.ndarray,
    network: lpips_lib.Lpips | None,
    encoder: crowd.Encoder,
    root: pathlib.Path,
    state: pixels.PixelState,
) -> dict[str, float]:
    """Measures the averaged weights as a tokenizer; writes the sheet."""
    tokenizer = image.ImageTokenizer(_averaged(state))
    codes_NP = tokenizer.encode(held_out_NYXC)
    back_NYXC = tokenizer.decode(codes_NP)
    if hosts.is_first():
        storage.write_bytes(root / SHEET, sheet(held_out_NYXC, back_NYXC))
    found = reconstruction.evaluate(
        held_out_NYXC, back_NYXC, codes_NP, tokenizer.codebook_size
    )
    pair = held_out_NYXC, back_NYXC
    if network is not None:
        found["lpips"] = reconstruction.lpips(*pair, network)
    else:
        found["gradient_pyramid"] = reconstruction.gradient_pyramid(*pair)
    if len(held_out_NYXC) > 1:  # one picture has no spread
        found |= reconstruction.frechet(*pair, encoder)
    return found


def sheet(originals_NYXC: np.ndarray, reconstructions_NYXC: np.ndarray) -> bytes:
    """Returns a PNG: rows of originals, their reconstructions beneath each row.

    Args:
      originals_NYXC: uint8[N, Y, X, 3]; the first 48 are shown.
      reconstructions_NYXC: uint8[N, Y, X, 3].
    """
    count = min(len(originals_NYXC), _SHEET_COLUMNS * _SHEET_ROWS)
    size = originals_NYXC.shape[1]
    canvas = np.full((0, _SHEET_COLUMNS * size, 3), 255, np.uint8)
    for start in range(0, count, _SHEET_COLUMNS):
        for part in (originals_NYXC, reconstructions_NYXC):
            strip = np.full((size, _SHEET_COLUMNS * size, 3), 255, np.uint8)
            for place, picture in enumerate(
                part[start : min(count, start + _SHEET_COLUMNS)]
            ):
                strip[:, place * size : (place + 1) * size] = picture
            canvas = np.concatenate([canvas, strip])
    large = Image.fromarray(canvas).resize(
        (canvas.shape[1] * _SHEET_SCALE, canvas.shape[0] * _SHEET_SCALE),
        Image.Resampling.NEAREST,
    )
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    return buffer.getvalue()
