"""The numbers of a benchmark's drawn pictures: as a crowd, beside captions, by group."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from cm3leon_jax import api
from cm3leon_jax.data import pictures as picture_files
from cm3leon_jax.data.sources.row import Row
from cm3leon_jax.embedders import clip
from cm3leon_jax.evals import crowd, distances

Rows = Callable[[], Iterable[Row]]


def measure(
    config: ml_collections.ConfigDict,
    model: api.Model,
    drawn: pathlib.Path,
    lines: Sequence[Mapping[str, Any]],
    rows: Rows,
) -> dict[str, float]:
    """Returns every number that the config's encoders give.

    Args:
      config: The section `benchmark`.
      model: Whose bi-encoder judges where there is no other.
      drawn: Folder of the pictures.
      lines: Of each case `asked`, `drawn` (a file), `group`, and its row's `key`.
      rows: Gives the data's own rows, anew at every call.

    Raises:
      FileNotFoundError: If weights are missing.
      ValueError: If reference statistics are of another network.
    """
    texts = [line["asked"] for line in lines]
    embed_text, embed_pictures, name = model.embed_text, model.embed_pictures, "model"
    if config.judge:
        judge = clip.ClipEmbedder.load(config.judge)
        embed_text, embed_pictures = judge.embed_text, judge.embed_pictures
        name = config.judge_name
    size = model.writer.image_size
    places = [drawn / line["drawn"] for line in lines]
    real = lambda encoder: _real(config, lines, rows, encoder, size)
    numbers: dict[str, float] = {"num_cases": len(lines)}
    if config.inception:
        encoder = crowd.from_inception(config.inception)
        ours = crowd.features(map(_picture, places), encoder)
        numbers |= crowd.evaluate(ours, real(encoder), encoder.name)
    if embed_text is None or embed_pictures is None:
        return numbers
    vectors = crowd.from_vectors(embed_pictures, name)
    ours = crowd.features(map(_picture, places), vectors)
    is_of_inception = bool(config.inception) and config.reference.endswith(".npz")
    found = None if is_of_inception else real(vectors)
    if not config.inception and found is not None:
        numbers |= crowd.evaluate(ours, found, vectors.name)
    theirs = found.features_NE if isinstance(found, crowd.Features) else None
    if config.judge or config.num_samples == 1:  # else it would judge its own choice
        text_NE = np.asarray(embed_text(texts))
        numbers |= crowd.with_texts(ours.features_NE, theirs, text_NE, name)
        groups = [line["group"] for line in lines]
        numbers |= crowd.by_group(ours.features_NE, text_NE, groups, name)
    prompts = tuple(config.group_prompts)
    if prompts and theirs is not None:
        prompt_NE = np.asarray(embed_text(prompts))
        numbers |= crowd.shares(ours.features_NE, theirs, prompt_NE, prompts)
    return numbers


def _picture(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _real(
    config: ml_collections.ConfigDict,
    lines: Sequence[Mapping[str, Any]],
    rows: Rows,
    encoder: crowd.Encoder,
    size: int,
) -> crowd.Features | distances.Statistics:
    """Features of the reference: an `.npz`, a folder, or the cases' own pictures."""
    reference, rule = config.reference, picture_files.PictureConfig(image_size=size)
    if reference.endswith(".npz"):
        probe, _ = encoder.encode(np.zeros((1, size, size, 3), np.uint8))
        return distances.read_statistics(reference, probe.shape[1])
    if reference:
        places: Iterable[Any] = sorted(
            path
            for path in pathlib.Path(reference).rglob("*")
            if path.suffix.lower() in picture_files.SUFFIXES
        )
    else:
        wanted = {line["key"] for line in lines}
        places = dict.fromkeys(row.picture for row in rows() if row.id in wanted)
    return crowd.features((picture_files.load(one, rule) for one in places), encoder)
