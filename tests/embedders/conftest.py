"""A CLIP checkpoint of Hugging Face in small, made by hand: names, layouts, tokenizer."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

CAPTIONS = [
    "A photo of two cats on a sofa.",
    "it's 1984, and they've won 2:0!",
    "Ein Bär läuft über die Straße",
    "naïve café",
    "猫と犬が走る",
]
TEXT_LAYERS, VISION_LAYERS, WIDTH, MLP, PATCH, SIZE, EMBED = 2, 1, 16, 32, 4, 12, 8


@pytest.fixture(scope="session")
def clip_files(tmp_path_factory):
    """A folder with `vocab.json` and `merges.txt`, trained on a few captions."""
    root = tmp_path_factory.mktemp("bpe")
    trained = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=letters, end_of_word_suffix="</w>"
    )
    words = [word for caption in CAPTIONS for word in caption.split()] * 20
    trained.train_from_iterator(words, trainer)
    model = json.loads(trained.to_str())["model"]
    # CLIP's order: bytes, bytes that end a word, merges, the two marks.
    merged = ["".join(pair) for pair in model["merges"]]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *merged]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    (root / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (root / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def checkpoint_config(vocab_size, eos_id):
    """The content of `config.json`."""
    tower = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_attention_heads": 2}
    return {
        "model_type": "clip",
        "projection_dim": EMBED,
        "text_config": {
            **tower,
            "num_hidden_layers": TEXT_LAYERS,
            "vocab_size": vocab_size,
            "max_position_embeddings": 77,
            "eos_token_id": eos_id,
        },
        "vision_config": {
            **tower,
            "num_hidden_layers": VISION_LAYERS,
            "image_size": SIZE,
            "patch_size": PATCH,
        },
    }


def checkpoint_weights(vocab_size):
    """Random weights under the names of `transformers`."""
    rng = np.random.default_rng(0)
    shapes = {
        "logit_scale": (),
        "text_projection.weight": (EMBED, WIDTH),
        "visual_projection.weight": (EMBED, WIDTH),
        "text_model.embeddings.token_embedding.weight": (vocab_size, WIDTH),
        "text_model.embeddings.position_embedding.weight": (77, WIDTH),
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": (10, WIDTH),
    }
    norms = ["text_model.final_layer_norm", "vision_model.pre_layrnorm"]
    norms.append("vision_model.post_layernorm")
    for side, layers in (("text", TEXT_LAYERS), ("vision", VISION_LAYERS)):
        for layer in range(layers):
            block = f"{side}_model.encoder.layers.{layer}"
            norms += [f"{block}.layer_norm1", f"{block}.layer_norm2"]
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes[f"{block}.self_attn.{name}.weight"] = (WIDTH, WIDTH)
                shapes[f"{block}.self_attn.{name}.bias"] = (WIDTH,)
            shapes[f"{block}.mlp.fc1.weight"] = (MLP, WIDTH)
            shapes[f"{block}.mlp.fc1.bias"] = (MLP,)
            shapes[f"{block}.mlp.fc2.weight"] = (WIDTH, MLP)
            shapes[f"{block}.mlp.fc2.bias"] = (WIDTH,)
    for norm in norms:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {
        name: np.asarray(rng.normal(size=shape) * 0.3, np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def checkpoint(clip_files, tmp_path):
    """A whole checkpoint folder, a fresh one for every test."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((clip_files / name).read_bytes())
    size = len(json.loads((clip_files / "vocab.json").read_text()))
    record = checkpoint_config(size, size - 1)
    (tmp_path / "config.json").write_text(json.dumps(record))
    weights = checkpoint_weights(size)
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save(weights))
    return tmp_path
