"""A SentencePiece model as a fast tokenizer file, with image codes and marks by name.

`tokenizer.json` is byte-pair encoding without normaliser and pre-tokeniser, over the
same pieces: the pair that makes the piece of the highest score is merged first, the
leftmost of equal ones. Spaces stand in the pieces as spaces, not as U+2581: that
character then falls to its bytes, as it does in `tokenizers.text`.

    <image:0> ...                 image codes        <break>, <end>, <sentinel:0> ...
    <unused:ID>, <reserved:ID>    ids that the model has and no text makes

All but the pieces are special tokens: `skip_special_tokens` leaves them out, and with
`split_special_tokens` a text that spells "<break>" is plain characters.
"""

from __future__ import annotations

import importlib
from typing import Any

from cm3leon_jax.vocab import Vocab

_SPACE_MARK = "\u2581"
_CONTROLS = ("<s>", "<pad>", "</s>", "<unk>")


def names(vocab: Vocab) -> dict[int, str]:
    """Id to name of every id from `vocab.image_start` on.

    vocab   text_size 8, image_size 2, control_size 4, 1 sentinel
    names   8 <image:0>, 9 <image:1>, 10 <break>, 11 <end>, 12 <sentinel:0>,
            13 <reserved:13>
    """
    found = {
        vocab.image_start + code: f"<image:{code}>" for code in range(vocab.image_size)
    }
    found[vocab.break_id] = "<break>"
    found[vocab.end_of_infill_id] = "<end>"
    for index in range(vocab.num_sentinels):
        found[vocab.sentinel_id(index)] = f"<sentinel:{index}>"
    for spare in range(vocab.control_start, vocab.size):
        found.setdefault(spare, f"<reserved:{spare}>")
    return found


def to_json(model: bytes, vocab: Vocab) -> dict[str, Any]:
    """Returns the content of `tokenizer.json`.

    Args:
      model: Content of a SentencePiece `.model` file of `tokenizers.text`.
      vocab: The joint vocabulary.

    Raises:
      ValueError: If the model is no byte-pair encoding with identity normalisation, is
        larger than the vocabulary's text, or has a piece that spells a mark's name.
    """
    pieces = _pieces(model)
    if len(pieces) > vocab.text_size:
        raise ValueError(
            f"the text tokenizer has {len(pieces)} pieces, the vocabulary room for"
            f" {vocab.text_size}; they do not belong together"
        )
    learnt = {text for text, _, is_learnt in pieces if is_learnt}
    ids = {text: number for number, (text, _, _) in enumerate(pieces)}
    marks = names(vocab)
    for number in range(len(pieces), vocab.text_size):
        marks[number] = f"<unused:{number}>"
    for number, name in marks.items():
        if name in ids:
            raise ValueError(f"the text tokenizer has a piece {name!r}, a mark's name")
        ids[name] = number
    special = [*_CONTROLS, *(marks[number] for number in sorted(marks))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(ids[name], name) for name in special],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _begin_with("</s>", Vocab.EOS),
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": dict(sorted(ids.items(), key=lambda item: item[1])),
            "merges": _merges(pieces, learnt),
        },
    }


def config_json(max_length: int) -> dict[str, Any]:
    """Returns the content of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }


def _pieces(model: bytes) -> list[tuple[str, float, bool]]:
    """Text, score and whether it was learnt, of every piece by id."""
    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    parsed = proto.ModelProto()
    parsed.ParseFromString(model)
    trainer, normalizer = parsed.trainer_spec, parsed.normalizer_spec
    for what, value, needed in (
        ("model_type", trainer.model_type, trainer.BPE),
        ("normalization_rule_name", normalizer.name, "identity"),
        ("add_dummy_prefix", normalizer.add_dummy_prefix, False),
        ("remove_extra_whitespaces", normalizer.remove_extra_whitespaces, False),
        ("byte_fallback", trainer.byte_fallback, True),
        ("treat_whitespace_as_suffix", trainer.treat_whitespace_as_suffix, False),
    ):
        if value != needed:
            raise ValueError(
                f"the text tokenizer has {what}={value!r}, not {needed!r}; a fast"
                " tokenizer would encode otherwise. Train it with configs/tokenizer.py"
            )
    kinds = parsed.SentencePiece
    found = []
    for piece in parsed.pieces:
        is_learnt = piece.type == kinds.NORMAL
        if piece.type in (kinds.USER_DEFINED, kinds.UNUSED):
            raise ValueError(f"piece {piece.piece!r} is user-defined or unused")
        text = piece.piece.replace(_SPACE_MARK, " ") if is_learnt else piece.piece
        found.append((text, piece.score, is_learnt))
    return found


def _merges(pieces: list[tuple[str, float, bool]], learnt: set[str]) -> list[list[str]]:
    """All pairs of pieces that make a piece, those of the highest score first."""
    letters = {text for text in learnt if len(text) == 1}
    merges = []
    for text, _, is_learnt in sorted(pieces, key=lambda piece: -piece[1]):
        if not is_learnt:
            continue
        if not set(text) <= letters:
            raise ValueError(f"piece {text!r} has a character that is no piece")
        for cut in range(1, len(text)):
            pair = [text[:cut], text[cut:]]
            if pair[0] in learnt and pair[1] in learnt:
                merges.append(pair)
    return merges


def _added(number: int, name: str) -> dict[str, Any]:
    return {
        "id": number,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _begin_with(name: str, number: int) -> dict[str, Any]:
    """Puts `</s>` in front of a text, unless `add_special_tokens` is False."""
    front = {"SpecialToken": {"id": name, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [front, first],
        "pair": [front, first, second],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }
