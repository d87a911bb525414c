"""The folder that stock `transformers` opens, and what lies in it beside the weights.

    config.json               OPT's fields, and under "cm3leon" what the way back needs
    model*.safetensors        the weights, see `folder`
    generation_config.json    ids that end and pad, greedy
    tokenizer.json, tokenizer_config.json, text.model
    vqgan/config.json, vqgan/model.safetensors, pixels.py
    upscaler/                 likewise, if there is one
    README.md                 the model card

`config.json` is written last: an unfinished folder opens nowhere.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.convert import (
    card,
    chameleon,
    files,
    opt,
    picture_tokenizer,
    table,
    tokenizer,
)
from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.vocab import Vocab

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TEXT_FILE = "text.model"
PIXELS_FOLDER, UPSCALER_FOLDER = "vqgan", "upscaler"
OURS = "cm3leon"  # our key in config.json, which transformers keeps
FORMAT = 1
FAMILIES = {opt.MODEL_TYPE: opt, chameleon.MODEL_TYPE: chameleon}


@dataclasses.dataclass(frozen=True)
class Whole:
    """What a folder holds beside the weights.

    Attributes:
      vocab: The joint vocabulary.
      text_model: Content of the text tokenizer's file.
      pixels: Folder of the image tokenizer.
      upscaler: Folder of the super-resolution network, or None.
      about: JSON values for the way back, kept under `OURS`.
      origin: For the card.
    """

    vocab: Vocab
    text_model: bytes
    pixels: storage.Path
    about: Mapping[str, Any]
    origin: card.Provenance
    upscaler: storage.Path | None = None


def check(config: TransformerConfig, whole: Whole) -> None:
    """Refuses what no such folder can hold, before anything is written.

    Raises:
      ValueError: If OPT or the fast tokenizer would be another function, or vocabulary
        and model have other sizes.
    """
    opt.check(config)
    check_size(config, whole.vocab)
    tokenizer.to_json(whole.text_model, whole.vocab)
    if not image_tokenizers.read_config(whole.pixels).use_decoder:
        raise ValueError(
            f"the image tokenizer {whole.pixels} has no decoder, so the folder could not"
            " draw; train with one that has"
        )


def check_size(config: TransformerConfig, vocab: Vocab) -> None:
    """Refuses a vocabulary that is not the model's (ValueError)."""
    if vocab.size != config.vocab_size:
        raise ValueError(
            f"the model has {config.vocab_size} ids, its vocabulary {vocab.size}; they"
            " do not belong together"
        )


def rows(config: TransformerConfig, whole: Whole) -> list[table.Row]:
    """The table of a model's arrays."""
    del whole  # ids stay in their order
    return opt.rows(config)


def tensors(whole: Whole) -> dict[str, np.ndarray]:
    """Arrays of other networks in the same files: none."""
    del whole
    return {}


def write_pixels(path: pathlib.Path, whole: Whole) -> list[dict[str, Any]]:
    """Writes the networks of pixels, and the PyTorch file that runs them.

    Returns:
      A line of the log for each of their arrays.
    """
    lines = picture_tokenizer.write(path / PIXELS_FOLDER, whole.pixels)
    if whole.upscaler is not None:
        lines += picture_tokenizer.write(path / UPSCALER_FOLDER, whole.upscaler)
    source = pathlib.Path(__file__).with_name("pixels.py")
    storage.write_bytes(path / source.name, source.read_bytes())
    return lines


def write(
    path: pathlib.Path, config: TransformerConfig, dtype: str, whole: Whole
) -> list[dict[str, Any]]:
    """Writes all but the transformer's weights; call it after those.

    Returns:
      A line of the log for each array of the networks of pixels.
    """
    vocab = whole.vocab
    lines = write_pixels(path, whole)
    storage.write_bytes(path / TEXT_FILE, whole.text_model)
    record = json.dumps(
        tokenizer.to_json(whole.text_model, vocab), ensure_ascii=False, indent=1
    )
    storage.write_bytes(path / TOKENIZER, record.encode())
    storage.write_json(
        path / "tokenizer_config.json", tokenizer.config_json(config.max_length)
    )
    ends = {"bos_token_id": Vocab.EOS, "eos_token_id": Vocab.EOS}
    ends |= {"pad_token_id": Vocab.PAD, "do_sample": False}
    storage.write_json(path / "generation_config.json", ends)
    text = card.write(
        config,
        vocab,
        whole.origin,
        image_size=image_tokenizers.read_config(whole.pixels).image_size,
        num_pieces=text_tokenizers.TextTokenizer(whole.text_model).vocab_size,
        has_upscaler=whole.upscaler is not None,
    )
    storage.write_bytes(path / "README.md", text.encode())
    ours = {"format": FORMAT, **whole.about}
    storage.write_json(path / CONFIG, opt.to_config(config, dtype) | {OURS: ours})
    return lines


def read_config(path: pathlib.Path) -> tuple[TransformerConfig, dict[str, Any] | None]:
    """Returns the config of a folder's model, and what we kept for the way back.

    Raises:
      FileNotFoundError: If there is no `config.json`.
      ValueError: If the model is not one that CM3Leon is a case of.
    """
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(f"no {CONFIG} in {path}; name a model's folder")
    record = storage.read_json(path / CONFIG)
    if not isinstance(record, dict):
        raise ValueError(f"{path / CONFIG} is no object; restore it")
    kind = record.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"{path / CONFIG}: model_type={kind!r}; known: {', '.join(FAMILIES)}"
        )
    config = FAMILIES[kind].from_config(str(path / CONFIG), record)
    ours = record.get(OURS)
    if ours is not None and (
        not isinstance(ours, dict) or ours.get("format") != FORMAT
    ):
        raise ValueError(
            f"{path / CONFIG}: {OURS} is of another format than {FORMAT}, which this"
            " program reads"
        )
    return config, ours


def open_weights(path: pathlib.Path, config: TransformerConfig) -> files.Weights:
    """Opens a folder's weights and checks their names and shapes.

    Raises:
      FileNotFoundError: If a file is missing.
      ValueError: If a file is damaged, or arrays are missing, left over or of another
        shape, or a tied head is another than the embedding.
    """
    found = files.open_weights(path)
    kind = family(config)
    ignored = {name for name in found.specs if name.startswith(kind.FOREIGN)}
    if config.tie_embeddings:
        ignored.add(kind.TIED_HEAD)
    table.check_names(str(path), found.specs, kind.rows(config), ignored)
    has_head = config.tie_embeddings and kind.TIED_HEAD in found.specs
    if has_head and not np.array_equal(
        found.tensor(kind.TIED_HEAD), found.tensor(kind.EMBEDDING)
    ):
        raise ValueError(
            f"{path}: {kind.TIED_HEAD} differs from the embedding, but config.json"
            " says tie_word_embeddings=true; set it to false if the head is its own"
        )
    return found


def family(config: TransformerConfig) -> Any:
    """The module with the table of a model: its positions tell which."""
    return chameleon if config.positions == "rotary" else opt


def read_text_model(path: pathlib.Path, vocab: Vocab, digest: str) -> bytes:
    """Returns the SentencePiece model of a folder, if all of its tokenizer is of it.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is not the one that the model was trained with, or
        `tokenizer.json` has other ids.
    """
    data = (path / TEXT_FILE).read_bytes()
    found = text_tokenizers.TextTokenizer(data).digest
    if found != digest:
        raise ValueError(
            f"{path / TEXT_FILE} has digest {found[:12]}, the model was trained with"
            f" {digest[:12]}; restore the file"
        )
    if (path / TOKENIZER).is_file():
        wanted = tokenizer.to_json(data, vocab)["model"]["vocab"]
        record = storage.read_json(path / TOKENIZER)
        try:
            ids = record["model"]["vocab"] | {
                one["content"]: one["id"] for one in record["added_tokens"]
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path / TOKENIZER} is no fast tokenizer file") from error
        if ids != wanted:
            raise ValueError(
                f"{path / TOKENIZER} has another vocabulary than {TEXT_FILE} and the"
                " model; restore the file, or delete it"
            )
    return data
