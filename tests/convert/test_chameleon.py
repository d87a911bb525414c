"""Laws of Chameleon's choices in the transformer, and of its table."""

import dataclasses

import jax
import numpy as np
import pytest

from cm3leon_jax.convert import chameleon, huggingface, table
from cm3leon_jax.models import transformer
from tests import small_models

RECORD = {
    "model_type": "chameleon",
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 40,
}
# The 30B shares keys and values among eight queries and normalises what is added.
SHAPES = {"7b": {}, "30b": {"num_key_value_heads": 2, "swin_norm": True}}
TOKENS_BL = np.random.default_rng(1).integers(4, 60, (2, 24))


def _config(shape, **changes):
    config = chameleon.from_config("x", RECORD | SHAPES[shape])
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_is_the_identity(shape):
    config = _config(shape)
    chameleon.check(config)
    ours = small_models.arrays_of(small_models.random_model(config))
    rows = chameleon.rows(config)
    read = lambda name, row: ours[name] if row is None else ours[name][row]
    make = table.make_theirs(rows, read, np.dtype("float32"))
    specs = table.our_specs(rows, np.dtype("float32"))
    assert {name: spec.shape for name, spec in specs.items()} == {
        name: x.shape for name, x in ours.items()
    }
    again = {}
    for name, part in table.make_ours(rows, make, np.dtype("float32")):
        again.setdefault(name, []).append(part)
    for name, array in ours.items():
        parts = again[name] if name.startswith("blocks/") else again[name][0]
        np.testing.assert_array_equal(np.asarray(parts), array, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decoding_equals_the_whole_row(shape):
    model = small_models.random_model(_config(shape))
    whole = small_models.logits(model, TOKENS_BL)
    unstacked = transformer.unstack(model)
    extend = jax.jit(lambda ids, at, cache: unstacked.extend(ids, at, cache))
    cache, found = unstacked.init_cache(2, 24), []
    for start, end in ((0, 16), (16, 23), (23, 24)):
        at = np.broadcast_to(np.arange(start, end), (2, end - start)).astype(np.int32)
        x_BLD, cache = extend(TOKENS_BL[:, start:end].astype(np.int32), at, cache)
        found.append(np.asarray(unstacked.head(x_BLD)))
    np.testing.assert_allclose(np.concatenate(found, 1), whole, atol=1e-4)


def test_rotary_scores_know_distances_alone():
    model = small_models.random_model(_config("7b"))
    ones = np.ones_like(TOKENS_BL, np.int32)
    tokens = TOKENS_BL.astype(np.int32)
    at = np.broadcast_to(np.arange(24), (2, 24)).astype(np.int32)
    near, far = (model(tokens, at + shift, ones) for shift in (0, 7))
    np.testing.assert_allclose(near, far, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps=1e-06"),
        ({"rope_parameters": {"rope_type": "linear"}}, "of type 'linear'"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"num_key_value_heads": 3}, "num_kv_heads=3 must divide"),
        ({"model_type": "llama"}, "model_type='llama'"),
    ],
)
def test_a_chameleon_that_is_another_function_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        chameleon.from_config("config.json", RECORD | changes)


def test_published_shapes_are_the_defaults():
    config = chameleon.from_config("x", {"model_type": "chameleon"})
    assert (config.num_layers, config.model_dim, config.mlp_dim) == (32, 4096, 11008)
    shapes = {
        name: spec.shape
        for name, spec in table.their_specs(
            chameleon.rows(config), np.dtype("float32")
        ).items()
    }
    assert shapes["model.layers.31.self_attn.k_norm.bias"] == (32, 128)
    assert shapes["lm_head.weight"] == (65_536, 4_096)


def _theirs(shape, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pixels = {
        "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
        "resolution": 16, "latent_channels": 8, "embed_dim": 8, "num_embeddings": 6,
    }  # fmt: skip
    # Image codes are ids 10 to 15, not in their order.
    names = ["IMGIMGCAZ", "IMGIMGAZ", "IMGIMGFZ", "IMGIMGBZ", "IMGIMGDZ", "IMGIMGEZ"]
    mapping = {name: 10 + i for i, name in enumerate(names)} | {"<image>": 20}
    fields = RECORD | SHAPES[shape] | {"vq_config": pixels, "vocabulary_map": mapping}
    fields.pop("model_type")
    config = transformers.ChameleonConfig(**fields, pad_token_id=1)
    torch.manual_seed(0)
    model = transformers.ChameleonForConditionalGeneration(config).eval()
    with torch.no_grad():  # fresh norms are ones and zeros, and say nothing
        for name, parameter in model.named_parameters():
            if "vqmodel" not in name:
                parameter.add_(0.15 * torch.randn_like(parameter))
        # Embeddings this small make the norm's epsilon count.
        model.model.embed_tokens.weight.mul_(0.05)
    model.save_pretrained(tmp_path)
    return model


def _arrays(config, folder):
    """Our arrays of a folder of theirs."""
    found, parts = huggingface.open_weights(folder, config), {}
    rows = chameleon.rows(config)
    for name, part in table.make_ours(rows, found.tensor, np.dtype("float32")):
        parts.setdefault(name, []).append(part)
    return {
        name: np.stack(x) if name.startswith("blocks/") else x[0]
        for name, x in parts.items()
    }


def _swap(one, two):
    """Two of our arrays change places."""
    names = {f"blocks/{one}": f"blocks/{two}", f"blocks/{two}": f"blocks/{one}"}
    return lambda arrays: {names.get(n, n): x for n, x in arrays.items()}


def _interleaved(arrays):
    """The order of a head's width that other programs rotate in."""
    width = arrays["blocks/qkv_D3HK"].shape[-1]
    order = np.arange(width).reshape(2, -1).T.ravel()
    return arrays | {"blocks/qkv_D3HK": arrays["blocks/qkv_D3HK"][..., order]}


TRAPS = {
    "epsilon": ({"layer_norm_epsilon": 1e-6}, dict),
    "norm order": ({"norm_order": "post"}, dict),
    "wavelengths": ({"rope_theta": 5e5}, dict),
    "activation": ({"activation": "gelu"}, dict),
    "gate and product": ({}, _swap("gate_DF", "up_DF")),
    "two norms": ({}, _swap("attention_scale_D", "mlp_scale_D")),
    "norms of queries and keys": ({}, _swap("q_scale_HK", "k_scale_GK")),
    "rotated pairs": ({}, _interleaved),
}


@pytest.mark.torch
def test_each_known_trap_turns_the_comparison_red(tmp_path):
    torch = pytest.importorskip("torch")
    theirs = _theirs("7b", tmp_path)
    with torch.no_grad():
        features = theirs.model(input_ids=torch.tensor(TOKENS_BL)).last_hidden_state
        whole = theirs.lm_head(features).numpy()
    config = _config("7b")
    arrays = _arrays(config, tmp_path)
    for name, (changes, change) in {"none": ({}, dict), **TRAPS}.items():
        other = dataclasses.replace(config, **changes)
        found = small_models.logits(small_models.fill(other, change(arrays)), TOKENS_BL)
        is_same = np.abs(found - whole).max() < 1e-4 * np.abs(whole).max()
        assert is_same == (name == "none"), name


@pytest.mark.torch
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_those_of_transformers_image_ids_too(shape, tmp_path):
    torch = pytest.importorskip("torch")
    theirs = _theirs(shape, tmp_path)
    config, kept = huggingface.read_config(tmp_path)
    assert kept is None and config == _config(shape)
    arrays, rows = _arrays(config, tmp_path), chameleon.rows(config)
    ours = small_models.logits(small_models.fill(config, arrays), TOKENS_BL)
    with torch.no_grad():
        shown = torch.tensor(TOKENS_BL)
        features = theirs.model(input_ids=shown).last_hidden_state
        whole = theirs.lm_head(features).numpy()  # before image ids are masked
        masked = theirs(input_ids=shown).logits.numpy()
    np.testing.assert_allclose(ours, whole, atol=1e-4 * np.abs(whole).max())
    assert (masked[..., 10:16] < -1e30).all() and ours[..., 10:16].std() > 0.1
    rest = np.r_[0:10, 16:60]
    np.testing.assert_allclose(
        ours[..., rest], masked[..., rest], atol=1e-4 * np.abs(whole).max()
    )
    read = lambda name, row: arrays[name] if row is None else arrays[name][row]
    make = table.make_theirs(rows, read, np.dtype("float32"))
    for name, tensor in theirs.state_dict().items():
        if "vqmodel" not in name:
            np.testing.assert_array_equal(make(name), tensor.numpy(), err_msg=name)
