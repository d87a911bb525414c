"""A small Chameleon with all its parts, as its public folders are: for conversion."""

import json

import numpy as np

from cm3leon_jax.convert import chameleon as table_of
from cm3leon_jax.convert import files, table, tokenizer
from cm3leon_jax.convert import vqgan as pixel_table
from cm3leon_jax.models import vqgan
from cm3leon_jax.tokenizers import chameleon, image, text
from cm3leon_jax.vocab import Vocab
from tests import small_models

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


PIXELS = {
    "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
    "resolution": 8, "latent_channels": 8, "embed_dim": 8, "num_embeddings": NUM_CODES,
}  # fmt: skip
SHAPES = {"7b": {}, "30b": {"num_key_value_heads": 2, "swin_norm": True}}


def pixel_config(**changes):
    """Our config of the image tokenizer, with the decoder that the port has not."""
    fields = {
        "image_size": 8, "base_channels": 32, "multipliers": (1, 1),
        "encoder_kernels": (3, 3), "decoder_kernels": (3, 3), "num_res_blocks": 1,
        "attention_sizes": (), "latent_channels": 8, "code_dim": 8,
        "codebook_size": NUM_CODES,
    }  # fmt: skip
    return vqgan.VqganConfig(**fields | changes)


def record(data, shape="7b", **changes):
    """The fields of `config.json`."""
    texts = chameleon.ChameleonTokenizer(data)
    fields = {
        "model_type": "chameleon", "vocab_size": texts.size, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 96,
        "vocabulary_map": texts.ids, "pad_token_id": 1,
        "vq_config": {"model_type": "chameleon_vqgan", **PIXELS},
    }  # fmt: skip
    return fields | SHAPES[shape] | changes


def write_folder(folder, shape="7b", seed=0, **changes):
    """Writes a folder as the public ones are, with random weights, without torch.

    Returns:
      The tensors by name, and the folder of our image tokenizer with its decoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = tokenizer_json(folder.parent)
    fields = record(data, shape, **changes)
    model = small_models.random_model(table_of.from_config("x", fields), seed)
    arrays = small_models.arrays_of(model)
    # Norms near one, and embeddings that tell ids apart.
    arrays |= {n: x + 1 for n, x in arrays.items() if "_scale_" in n}
    arrays["token_embedding_VD"] = 20 * arrays["token_embedding_VD"]
    read = lambda name, row: arrays[name] if row is None else arrays[name][row]
    rows = table_of.rows(model.config)
    make = table.make_theirs(rows, read, np.dtype("float32"))
    tensors = {name: np.array(make(name)) for row in rows for name in row.theirs}
    pixels = folder.parent / "pixels"
    rng = np.random.default_rng(seed)
    draw = lambda x: rng.normal(0.1, 0.3, x.shape).astype(np.float32)
    shapes = image.shapes(pixel_config())
    image.write({n: draw(x) for n, x in shapes.items()}, pixel_config(), pixels)
    theirs = pixel_table.tensors(image.load_model(pixels), "chameleon")
    tensors |= {f"model.vqmodel.{name}": x for name, x in theirs.items()}
    files.write(folder, tensors, fields)
    (folder / "tokenizer.json").write_bytes(data)
    return tensors, pixels
