"""Trains a bi-encoder on a folder's pairs of picture and caption.

export/          the trained bi-encoder, see embedders/clip.py
checkpoints/     where an interrupted training continues
metrics.jsonl    losses, and how many captions are found among a hundred
"""

from __future__ import annotations

import functools
import pathlib

import jax
import ml_collections
import numpy as np
from flax import nnx

from cm3leon_jax import cpu, sharding, storage
from cm3leon_jax.data import gallery, pictures, splits
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.embedders import clip as embedder
from cm3leon_jax.jobs import folder
from cm3leon_jax.models import clip
from cm3leon_jax.tokenizers import text
from cm3leon_jax.train import checkpoint, contrastive, loop, metrics

_NUM_CHOICES = 100  # captions among which a picture finds its own


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains, measures on the validation split, exports.

    Raises:
      FileNotFoundError: If there are no pictures, or there is no tokenizer.
      ValueError: If there are too few pairs.
      FloatingPointError: If the loss is not finite.
    """
    if not folder.start(config, workdir):
        return
    cpu.use_devices(config.num_cpu_devices)
    root = pathlib.Path(workdir)
    tokenizer = text.TextTokenizer.load(config.tokenizer)
    shape = clip_config(config.model.to_dict(), tokenizer.vocab_size)
    train = contrastive.ContrastiveConfig(**config.train)
    sharding.check_batch(train.batch_size)
    refusals = Refusals()
    pairs, held_out = (
        _read(config, split, refusals) for split in (splits.TRAIN, splits.VALIDATION)
    )
    storage.write_json(root / "refusals.json", refusals.to_json())
    definition, state, step = contrastive.init(shape, train)
    batches = contrastive.Pairs(
        pairs.pictures,
        [tokenizer.encode(row.text) for row in pairs.rows],
        shape,
        train,
    )
    evaluate = functools.partial(
        _found_captions, embedder.SentencePieceText(tokenizer), shape, held_out
    )
    final = loop.run(
        state,
        _on_all_devices(step),
        batches,
        num_steps=train.num_steps,
        checkpointer=checkpoint.Checkpointer(
            str(root / "checkpoints"), context={"tokenizer": tokenizer.digest}
        ),
        writer=metrics.Writer(str(root / "metrics.jsonl")),
        log_every=config.loop.log_every,
        save_every=config.loop.save_every,
    )
    model = nnx.merge(definition, final.params)
    embedder.save(root / embedder.EXPORT, model, shape, _model_file(config.tokenizer))
    summary = evaluate(model)
    print("  ".join(f"{name}: {value:.3f}" for name, value in summary.items()))
    folder.finish(workdir, summary)


def clip_config(fields: dict, vocab_size: int) -> clip.ClipConfig:
    """Makes a shape from a config's fields; the text side is `tokenizers.text`'s."""
    towers = {side: clip.TowerConfig(**fields.pop(side)) for side in ("vision", "text")}
    eos_id = embedder.SentencePieceText.eos_id
    return clip.ClipConfig(vocab_size=vocab_size, eos_id=eos_id, **towers, **fields)


def _read(
    config: ml_collections.ConfigDict, split: str, refusals: Refusals
) -> gallery.Gallery:
    return gallery.read(
        config.pictures.folder,
        split,
        splits.SplitConfig(**config.splits),
        pictures.PictureConfig(image_size=config.model.image_size),
        refusals,
        num_threads=config.num_threads,
    )


def _model_file(tokenizer: str) -> pathlib.Path:
    path = pathlib.Path(tokenizer)
    return path / text.FILE_NAME if path.is_dir() else path


def _on_all_devices(step: contrastive.Step) -> contrastive.Step:
    """Spreads the rows of each batch over the devices; parameters are on each.

    Every row is still told apart from all others: the compiler gathers the vectors.
    """
    if jax.device_count() == 1:
        return step
    mesh = jax.make_mesh(
        (jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,)
    )
    rows, everywhere = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data",), ())
    )

    def spread(
        state: contrastive.State, batch: contrastive.Batch
    ) -> tuple[contrastive.State, dict[str, jax.Array]]:
        """Puts state and rows where they belong, then takes the step."""
        return step(jax.device_put(state, everywhere), jax.device_put(batch, rows))

    return spread


def _found_captions(
    words: embedder.AbstractTextEncoder,
    shape: clip.ClipConfig,
    held_out: gallery.Gallery,
    model: clip.Clip,
) -> dict[str, float]:
    """How often a picture's own caption, or its equal, is nearest of a hundred."""
    embed = embedder.ClipEmbedder(model, shape, words, digest="")
    texts = [row.text for row in held_out.rows]
    count = min(_NUM_CHOICES, len(texts))
    found = []
    vectors = zip(
        *(
            np.split(array[: len(array) // count * count], len(array) // count)
            for array in (
                embed.embed_pictures(held_out.pictures),
                embed.embed_text(texts),
                np.array(texts),
            )
        ),
        strict=True,
    )
    for pictures_NE, texts_NE, names in vectors:
        nearest = (pictures_NE @ texts_NE.T).argmax(axis=1)
        found.append(names[nearest] == names)
    return {"finds_caption": float(np.mean(found)), "finds_caption_guess": 1 / count}
