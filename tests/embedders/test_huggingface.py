"""Laws of CLIP checkpoints: their weights in our towers, what is refused, parity."""

import json

import numpy as np
import pytest
import safetensors.numpy

from cm3leon_jax.embedders import clip as embedder
from cm3leon_jax.embedders import huggingface

TEXTS = ["A photo of two cats.", "", "café " * 90, "a <|endoftext|> b"]
SHAPES = [(37, 51), (12, 12), (200, 13), (13, 200), (31, 30), (5, 7), (64, 97)]


def _picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    small[: height // 2, : width // 3] = 255  # an edge, where bicubic overshoots
    return small


def _edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_checkpoint_embeds_texts_and_pictures(checkpoint):
    embed = embedder.ClipEmbedder.load(checkpoint)
    texts = embed.embed_text(TEXTS)
    pictures = embed.embed_pictures(_picture(40, 30)[None])
    for vectors in (texts, pictures):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert embed.dim == 8 and np.abs(texts[0] - texts[2]).max() > 1e-3


def test_the_old_end_of_text_id_means_the_last_id():
    record = {"text_config": {"eos_token_id": 2, "vocab_size": 321}}
    assert huggingface.read_config("config.json", record).eos_id == 320


def test_the_digest_follows_weights_and_tokenizer(checkpoint):
    first = embedder.ClipEmbedder.load(checkpoint).digest
    assert embedder.ClipEmbedder.load(checkpoint).digest == first
    path = checkpoint / "merges.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert embedder.ClipEmbedder.load(checkpoint).digest != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["text_config"].update(hidden_act="relu"), "hidden_act"),
        (lambda r: r["vision_config"].update(layer_norm_eps=1e-6), "layer_norm_eps"),
        (lambda r: r["text_config"].update(num_hidden_layers=3), "16 weights are"),
        (lambda r: r["text_config"].update(num_hidden_layers=1), "16 have no place"),
        (lambda r: r["vision_config"].update(image_size=16), "positions_LD"),
        (lambda r: r["vision_config"].update(image_size=13), "multiple of"),
        (lambda r: r["text_config"].update(vocab_size=99), "ids and ends texts"),
        (lambda r: r["text_config"].update(hidden_size="wide"), "no CLIP"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(checkpoint, change, message):
    _edit(checkpoint / "config.json", change)
    with pytest.raises(ValueError, match=message):
        embedder.ClipEmbedder.load(checkpoint)


def test_weights_of_another_shape_are_refused(checkpoint):
    path = checkpoint / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    weights["text_model.final_layer_norm.bias"] = np.zeros(5, np.float32)
    path.write_bytes(safetensors.numpy.save(weights))
    with pytest.raises(ValueError, match=r"text\.norm_out\.bias.*\(16,\).*\(5,\)"):
        embedder.ClipEmbedder.load(checkpoint)


def test_pickled_and_missing_weights_are_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="copy it there"):
        embedder.ClipEmbedder.load(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="pickle"):
        embedder.ClipEmbedder.load(checkpoint)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"size": 10}, "size is 10"),
        ({"size": {"shortest_edge": 12}, "crop_size": {"height": 9}}, "crop_size"),
        ({"resample": 2}, "resample"),
    ],
)
def test_other_preprocessing_is_refused(checkpoint, fields, message):
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        embedder.ClipEmbedder.load(checkpoint)


@pytest.mark.torch
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_towers_equal_those_of_transformers(checkpoint, clip_files, activation):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    record = json.loads((checkpoint / "config.json").read_text())
    for side in ("text_config", "vision_config"):
        record[side] |= {"hidden_act": activation, "num_hidden_layers": 3}
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(transformers.CLIPConfig(**record)).eval()
    with torch.no_grad():  # a fresh model is too near to linear to tell much
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(checkpoint)
    ours = embedder.ClipEmbedder.load(checkpoint)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_files)
    inputs = tokenizer(
        TEXTS, truncation=True, max_length=77, padding=True, return_tensors="pt"
    )
    pixels = np.stack([_picture(12, 12, seed) for seed in range(5)])
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}
    )
    shown = processor([*pixels], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = theirs(**inputs, pixel_values=shown)
    np.testing.assert_allclose(ours.embed_text(TEXTS), output.text_embeds, atol=1e-4)
    np.testing.assert_allclose(
        ours.embed_pictures(pixels), output.image_embeds, atol=1e-4
    )


@pytest.mark.torch
@pytest.mark.parametrize("size", [224, 12])
def test_pixels_equal_the_processor_of_transformers(size):
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_normalize=False,
    )
    odd = np.random.default_rng(0).integers(5, 400, (300, 2)).tolist()
    for seed, shape in enumerate([*SHAPES, (480, 640), (333, 500), (225, 223), *odd]):
        picture = _picture(*shape, seed)
        theirs = processor(picture, return_tensors="np")["pixel_values"][0]
        ours = embedder.fit(picture[None], size)[0].transpose(2, 0, 1) / 255
        assert np.abs(theirs - ours).max() <= 1 / 255 + 1e-6, shape


def test_published_checkpoints_have_the_published_shapes():
    # What the config.json files of OpenAI's three checkpoints say.
    wide = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    large = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}
    large |= {"intermediate_size": 4096, "patch_size": 14}
    records = {
        "vit_b32": {"text_config": {"eos_token_id": 2}, "vision_config": {}},
        "vit_l14": {"text_config": wide, "vision_config": large},
        "vit_l14_336": {
            "text_config": wide,
            "vision_config": large | {"image_size": 336},
        },
    }
    for name, record in records.items():
        record["projection_dim"] = 512 if name == "vit_b32" else 768
        config = huggingface.read_config(name, record)
        assert config == huggingface.clip.SHAPES[name]
