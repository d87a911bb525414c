"""A small Chameleon with all its parts, as its public folders are: for conversion."""

import json

import numpy as np

from cm3leon_jax.convert import tokenizer
from cm3leon_jax.tokenizers import chameleon, text
from cm3leon_jax.vocab import Vocab

NUM_CODES, NUM_SENTINELS = 24, 6
TEXTS = ["a red circle at the top left", "Describe the given picture."]


def code_name(code):
    return f"IMGIMG{''.join('ABCDEFGHIJ'[int(digit)] for digit in str(code))}Z"


def tokenizer_json(folder):
    """Content of a `tokenizer.json` with Chameleon's names, its ids in no order.

    As in the public file: `<s>`, `<pad>`, `</s>`, `<unk>`, image codes, marks, reserved
    ids, text pieces; only that here a piece stands between every four image codes.
    """
    pieces = text.train(TEXTS * 4, 300, folder / "pieces.model")
    plain = Vocab(pieces.vocab_size, 1, 3, 1, 1)
    record = tokenizer.to_json((folder / "pieces.model").read_bytes(), plain)
    model = record["model"]
    learnt = [name for name, at in model["vocab"].items() if 4 <= at < plain.text_size]
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    for number, code in enumerate(np.random.default_rng(0).permutation(NUM_CODES)):
        names.append(code_name(code))
        names += [learnt.pop(0)] if number % 4 == 3 else []
    reserved = [chameleon.sentinel(index) for index in range(NUM_SENTINELS)]
    reserved += ["<reserved08706>", "<image>", "<reserved08708>", "<reserved08709>"]
    names += ["<eoss>", "<racm3:break>", *reserved, *learnt]
    model["vocab"] = {name: number for number, name in enumerate(names)}
    special = [one for one in names if one.startswith("IMGIMG") or one[0] == "<"]
    special = [one for one in special if not one.startswith("<0x")]
    record["added_tokens"] = [
        {
            "id": model["vocab"][name], "content": name, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False, "special": True,
        }
        for name in special
    ]  # fmt: skip
    front = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    rest = {"Sequence": {"id": "A", "type_id": 0}}
    record["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [front, rest],
        "pair": [front, rest, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    return json.dumps(record, ensure_ascii=False).encode()
