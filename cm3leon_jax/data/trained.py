"""A trained model with what turns words and pictures into its ids, found on disk.

A run keeps them in the folders of its jobs:

    sft ──config──► retrieve ──config──► shards ──config──► tokenizer, vqgan, clip

and an exported model in one folder (the job `export`):

    export.json, model.safetensors    the transformer, see `train.export`
    text.model, vqgan/                its tokenizers; Chameleon's is tokenizer.json
"""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath

from cm3leon_jax import storage
from cm3leon_jax.data import shards
from cm3leon_jax.data.bank import Bank
from cm3leon_jax.embedders import clip
from cm3leon_jax.models import transformer
from cm3leon_jax.retrieval.strategy import StrategyConfig
from cm3leon_jax.tasks import layout
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.train import export, state
from cm3leon_jax.vocab import Vocab

PAIRS = "pairs"  # the set of shards that holds the memory bank
STAGES = ("sft", "pretrain")  # of a quickstart, the best first
PIXELS_FOLDER = "vqgan"

Path = storage.Path


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a model and its tokenizers lie.

    Attributes:
      model: Folder of a training job, or of an exported model.
      text: SentencePiece's model file, the folder of the job `tokenizer`, or Chameleon's
        `tokenizer.json`.
      pixels: Folder of the image tokenizer.
      embedder: Folder of the bi-encoder, or None.
      coordinates: Steps a side of the grid in layouts, as the model was trained.
    """

    model: epath.Path
    text: epath.Path
    pixels: epath.Path
    embedder: epath.Path | None
    coordinates: int


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model, and its tokenizers.

    Attributes:
      model: With its layers stacked.
      info: Its vocabulary, and the digests of its tokenizers.
      texts: Text to ids and back.
      images: Pictures to codes and back.
      coordinates: Steps a side of the grid in layouts.
    """

    model: transformer.Transformer
    info: shards.SetInfo
    texts: text_tokenizers.AbstractTextTokenizer
    images: image_tokenizers.ImageTokenizer
    coordinates: int


def places(path: Path) -> Places:
    """Finds a model's parts.

    Args:
      path: Folder of a training job, of a quickstart (its instruction-tuned model, else
        its pretrained one), or of an exported model.

    Raises:
      FileNotFoundError: If there is no model, or a part of the run is gone.
    """
    root = storage.place(path)
    if (root / export.ABOUT_FILE).exists():
        coordinates = storage.read_json(root / export.ABOUT_FILE)["coordinates"]
        text = text_tokenizers.find(root)
        return Places(root, text, root / PIXELS_FOLDER, None, coordinates)
    folder = _job_folder(root)
    made = _config_with(shards_folder(folder), "tokenizer")
    tasks = made["tokenise"]["tasks"]
    coordinates = layout.COORDINATES
    if "layout" in tasks:
        coordinates = tasks["layout"]["coordinates"]
    embedder = _beside(folder, made["embedder"]) if made["embedder"] else None
    return Places(
        model=folder,
        text=_beside(folder, made["tokenizer"]),
        pixels=_beside(folder, made["image_tokenizer"]),
        embedder=embedder,
        coordinates=coordinates,
    )


def load(path: Path) -> Trained:
    """Reads a model and its tokenizers; `path` as for `places`.

    Raises:
      FileNotFoundError: If there is no model, or a part of it is gone.
      ValueError: If tokenizers and model do not belong together, or a file is damaged.
    """
    found = places(path)
    model, context = export.load(found.model)
    info = set_info(found.model, context)
    texts = text_tokenizers.load(found.text)
    images = image_tokenizers.ImageTokenizer.load(found.pixels)
    check_codebook(info.vocab, images, found.pixels)
    check(info, texts.digest, images.digest, found.model)
    return Trained(model, info, texts, images, found.coordinates)


def load_bank(path: Path) -> tuple[Bank | None, clip.ClipEmbedder] | None:
    """Reads a run's bi-encoder and its memory bank, as far as it has them.

    Args:
      path: As for `places`.

    Returns:
      The bank (None if the job `retrieve` was not run) and the bi-encoder; or None if
      the shards were made without one.
    """
    found = places(path)
    if found.embedder is None:
        return None
    bank = _bank(shards_folder(found.model))
    return bank, clip.ClipEmbedder.load(found.embedder)


def shards_folder(path: Path) -> epath.Path:
    """The folder of the shards that a run's model was trained on."""
    folder = _job_folder(storage.place(path))
    return _beside(folder, storage.read_json(folder / "config.json")["shards"])


def tokenizers(path: Path) -> tuple[epath.Path, epath.Path]:
    """Where the text and the image tokenizer of shards lie.

    Args:
      path: The folder that the job `shards` or `retrieve` wrote.

    Raises:
      FileNotFoundError: If it is no such folder, or a tokenizer is gone.
    """
    folder = storage.place(path)
    made = _config_with(folder, "tokenizer")
    return _beside(folder, made["tokenizer"]), _beside(folder, made["image_tokenizer"])


def _bank(folder: epath.Path) -> Bank | None:
    """The splits that the job `retrieve` searched; None if the shards had none."""
    config = storage.read_json(folder / "config.json")
    if "bank" not in config:
        return None
    if storage.is_in_bucket(folder):
        raise ValueError(
            f"the memory bank in {folder} is read from a disk; mount the bucket where"
            " the run was made, or load the model without its bank"
        )
    known = shards.splits(folder / PAIRS)
    names = [name for name in config["bank"] if name in known]
    sources = [shards.open(folder / PAIRS, name) for name in names]
    return Bank(sources, StrategyConfig(**config["strategy"]))


def _job_folder(path: epath.Path) -> epath.Path:
    for folder in (path, *(path / stage for stage in STAGES)):
        if (folder / state.CHECKPOINTS).is_dir():
            return folder
    raise FileNotFoundError(
        f"no trained model in {path}; name the folder of a training job"
    )


def _beside(folder: epath.Path, name: str) -> epath.Path:
    """A folder that a config names; if the run was moved, the one beside the job's."""
    named = storage.place(name)
    moved = storage.place(folder).parent / named.name
    if named.exists():
        return named
    if moved.exists():
        return moved
    raise FileNotFoundError(f"{folder} was made with {name}, which is gone; restore it")


def _config_with(folder: epath.Path, key: str) -> dict[str, Any]:
    """The config of the job that has this key: `shards`, perhaps behind `retrieve`."""
    config = storage.read_json(folder / "config.json")
    if key in config:
        return config
    return _config_with(_beside(folder, config["shards"]), key)


def set_info(path: Path, context: dict[str, Any]) -> shards.SetInfo:
    """Returns what a model's context says of its vocabulary and tokenizers.

    Raises:
      ValueError: If it says nothing: weights that were converted from a folder without.
    """
    if not context.get("shards"):
        raise ValueError(
            f"{path} holds weights alone, without vocabulary and tokenizers; start a"
            " training from it (init_from), or convert a folder that has them"
        )
    return shards.SetInfo.from_json(context["shards"])


def check(info: shards.SetInfo, text: str, image: str, folder: Path) -> None:
    """Refuses tokenizers whose ids mean something else to the model.

    Args:
      info: Of the model.
      text: Digest of the text tokenizer at hand.
      image: Digest of the image tokenizer at hand.
      folder: Of the model, for the message.

    Raises:
      ValueError: If one is another.
    """
    for name, ours in (("text_tokenizer", text), ("image_tokenizer", image)):
        if ours != getattr(info, name):
            raise ValueError(
                f"{folder} was trained with another {name} than the one at hand"
                f" ({ours[:12]}); restore it, or train again"
            )


def check_codebook(
    vocab: Vocab, images: image_tokenizers.ImageTokenizer, folder: Path
) -> None:
    """Refuses an image tokenizer whose codes are not those that the vocabulary names.

    Args:
      vocab: Of the model.
      images: The tokenizer at hand.
      folder: Of the tokenizer, for the message.

    Raises:
      ValueError: If the codebook or the number of codes a picture is another.
    """
    ours = images.codebook_size, images.codes_per_image
    named = vocab.image_size, vocab.codes_per_image
    if ours != named:
        raise ValueError(
            f"the image tokenizer {folder} makes {ours[1]} codes a picture of a codebook"
            f" of {ours[0]}; the model's vocabulary names {named[1]} of {named[0]}: give"
            " the tokenizer that the model was trained with"
        )
