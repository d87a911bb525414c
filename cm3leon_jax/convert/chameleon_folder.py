"""Chameleon's folder for stock `transformers`, and what lies in it beside the weights.

    config.json             Chameleon's fields, its image tokenizer's, the map of names;
                            under "cm3leon" what the way back needs
    model*.safetensors      the transformer, and the encoder of the image tokenizer
    tokenizer.json          byte for byte what the model was trained with
    tokenizer_config.json, generation_config.json, preprocessor_config.json
    vqgan/, pixels.py       the image tokenizer, if it has a decoder; the port has none
    README.md               the model card

As in `huggingface`, `config.json` is written last.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cm3leon_jax import storage
from cm3leon_jax.convert import (
    chameleon,
    chameleon_card,
    files,
    huggingface,
    picture_tokenizer,
    table,
    vqgan,
)
from cm3leon_jax.convert.huggingface import Whole
from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.tokenizers import chameleon as tokenizers
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.vocab import Vocab

PIXELS = "model.vqmodel."  # beginning of the image tokenizer's names


def check(config: TransformerConfig, whole: Whole) -> None:
    """Refuses what no such folder can hold, before anything is written.

    Raises:
      ValueError: If Chameleon would be another function, or vocabulary and model have
        other sizes.
    """
    chameleon.check(config)
    huggingface.check_size(config, whole.vocab)
    if not whole.vocab.use_image_marks:
        raise ValueError(
            "Chameleon's class needs Chameleon's vocabulary, in which pictures have marks"
            " of their own; train with its tokenizer.json"
        )


def rows(config: TransformerConfig, whole: Whole) -> list[table.Row]:
    """The table of a model's arrays, its ids in their order."""
    theirs_V = tokenizers.ChameleonTokenizer(whole.text_model).theirs_V
    return chameleon.rows(config, theirs_V)


def tensors(whole: Whole) -> dict[str, np.ndarray]:
    """The encoder and codebook of the image tokenizer by their names, float32.

    Raises:
      ValueError: If Chameleon's image tokenizer has no such shape.
    """
    model = image_tokenizers.load_model(whole.pixels)
    found = vqgan.tensors(model, "chameleon")
    return {PIXELS + name: array for name, array in found.items()}


def write(
    path: pathlib.Path, config: TransformerConfig, dtype: str, whole: Whole
) -> list[dict[str, Any]]:
    """Writes all but the weights; call it after those.

    Returns:
      A line of the log for each array of the image tokenizer with its decoder.
    """
    pixels = image_tokenizers.read_config(whole.pixels)
    lines = huggingface.write_pixels(path, whole) if pixels.use_decoder else []
    texts = tokenizers.ChameleonTokenizer(whole.text_model)
    storage.write_bytes(path / tokenizers.FILE_NAME, whole.text_model)
    for name, record in (
        ("tokenizer_config", _tokenizer_config(texts, config.max_length)),
        ("generation_config", _generation_config()),
        ("preprocessor_config", _preprocessor_config(pixels.image_size)),
    ):
        storage.write_json(path / f"{name}.json", record)
    text = chameleon_card.write(
        config,
        whole.vocab,
        whole.origin,
        texts,
        image_size=pixels.image_size,
        has_decoder=pixels.use_decoder,
    )
    storage.write_bytes(path / "README.md", text.encode())
    record = chameleon.to_config(config, dtype) | {
        "vq_config": vqgan.their_config(pixels, "chameleon"),
        "vocabulary_map": dict(sorted(texts.ids.items(), key=lambda item: item[1])),
        huggingface.OURS: {"format": huggingface.FORMAT, **whole.about},
    }
    # The port finds image codes by names, and its placeholder by this one.
    record["vocabulary_map"].setdefault("<image>", texts.placeholder)
    storage.write_json(path / files.CONFIG, record)
    return lines


def read_tokenizer(path: pathlib.Path) -> tokenizers.ChameleonTokenizer | None:
    """Returns the vocabulary of a folder; None if there is none, but weights alone.

    Raises:
      ValueError: If it is another than `config.json` names.
    """
    if not (path / tokenizers.FILE_NAME).is_file():
        return None
    found = tokenizers.ChameleonTokenizer.load(path)
    named = files.read_config(path).get("vocabulary_map") or {}
    ours, theirs = tokenizers.codes(found.ids), found.ids
    if named and not np.array_equal(tokenizers.codes(named), ours):
        raise ValueError(
            f"{path / tokenizers.FILE_NAME} maps image codes to other ids than"
            f" {files.CONFIG}; restore the file, or the model would draw gibberish"
        )
    other = [name for name in named if theirs.get(name, named[name]) != named[name]]
    if other:
        raise ValueError(
            f"{path / tokenizers.FILE_NAME} has other ids than {files.CONFIG} for"
            f" {other[:4]}; restore the file"
        )
    return found


def write_pixels(
    source: pathlib.Path, given: str, target: pathlib.Path
) -> list[dict[str, Any]]:
    """Writes the image tokenizer of a folder in our own format.

    Args:
      source: A folder with `model.vqmodel`, perhaps with `vqgan/` beside it.
      given: Our tokenizer's folder, with a decoder, whose codes are the same; or empty.
      target: Our tokenizer's folder.

    Returns:
      A line of the log for each array.

    Raises:
      ValueError: If the one given, or the one beside, makes other codes than the model
        knows.
    """
    model = vqgan.read(source)
    named = pathlib.Path(given) if given else None
    beside = source / huggingface.PIXELS_FOLDER
    if named is None and (beside / image_tokenizers.CONFIG_FILE).is_file():
        lines = picture_tokenizer.read(beside, target)
        named = target
    elif named is not None:
        whole = image_tokenizers.load_model(named)
        image_tokenizers.save(whole, target)
        lines = picture_tokenizer.log(target)
    else:
        image_tokenizers.save(model, target)
        return picture_tokenizer.log(target)
    wanted = vqgan.tensors(model, "chameleon")
    found = vqgan.tensors(image_tokenizers.load_model(target), "chameleon")
    for name, array in wanted.items():
        if name not in found or not np.array_equal(found[name], array):
            raise ValueError(
                f"{named} has another {name!r} than {source}: its codes are not those"
                " that the model knows; convert the tokenizer that belongs to it"
            )
    return lines


def _tokenizer_config(
    texts: tokenizers.ChameleonTokenizer, max_length: int
) -> Mapping[str, Any]:
    names = {number: name for name, number in texts.ids.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "sep_token": tokenizers.BREAK,
        "image_token": names[texts.placeholder],
        "boi_token": tokenizers.BEGIN_IMAGE,
        "eoi_token": tokenizers.END_IMAGE,
        "padding_side": "left",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }


def _generation_config() -> Mapping[str, Any]:
    ends = {"bos_token_id": Vocab.BOS, "eos_token_id": Vocab.EOS}
    return ends | {"pad_token_id": Vocab.PAD, "do_sample": False}


def _preprocessor_config(image_size: int) -> Mapping[str, Any]:
    """Pixels as `models.vqgan.from_bytes` has them."""
    return {
        "image_processor_type": "ChameleonImageProcessor",
        "crop_size": {"height": image_size, "width": image_size},
        "size": {"shortest_edge": image_size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [1.0, 1.0, 1.0],
        "resample": 3,
        "rescale_factor": 1 / 127.5,
    }
