"""Laws of the table to OPT: identity, known layouts, parity with transformers, traps."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from cm3leon_jax.convert import huggingface, opt, table
from cm3leon_jax.convert.safetensors_file import Spec
from cm3leon_jax.models import transformer
from cm3leon_jax.train import state
from tests.small_models import (
    arrays_of,
    logits,
    model_config,
    random_model,
    to_theirs,
)

CONFIG = model_config(vocab_size=50)
TOKENS_BL = np.random.default_rng(1).integers(4, 50, (2, CONFIG.max_length))


def _to_ours(theirs, config):
    rows = opt.rows(config)
    arrays = {}
    for name, part in table.make_ours(rows, theirs.__getitem__, np.dtype("float32")):
        arrays.setdefault(name, []).append(part)
    specs = table.our_specs(rows, np.dtype("float32"))
    return {name: np.concatenate(x).reshape(specs[name].shape) if len(x) == 1
            else np.stack(x) for name, x in arrays.items()}  # fmt: skip


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_there_and_back_is_the_identity(tie_embeddings):
    config = dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings)
    model = random_model(config)
    theirs = to_theirs(model)
    again = _to_ours(theirs, config)
    ours = arrays_of(model)
    assert again.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert opt.from_config("x", opt.to_config(config, "float32")) == config


def test_rows_of_the_table_name_every_array_once():
    theirs = [name for row in opt.rows(CONFIG) for name in row.theirs]
    assert len(theirs) == len(set(theirs)) == 2 + 6 * CONFIG.num_layers
    ours = table.our_specs(opt.rows(CONFIG), np.dtype("float32"))
    wanted = {name: x.shape for name, x in arrays_of(random_model(CONFIG)).items()}
    assert {name: spec.shape for name, spec in ours.items()} == wanted


def test_known_layouts():
    model = random_model(CONFIG)
    ours, theirs = arrays_of(model), to_theirs(model)
    front = "model.decoder.layers.1"
    k_proj = theirs[f"{front}.self_attn.k_proj.weight"]
    # Output feature 2 * 16 + 5 is element 5 of head 2; input feature 7.
    assert k_proj[2 * 16 + 5, 7] == ours["blocks/qkv_D3HK"][1, 7, 1, 2, 5]
    out = theirs[f"{front}.self_attn.out_proj.weight"]
    assert out[9, 2 * 16 + 5] == ours["blocks/out_HKD"][1, 2, 5, 9]
    assert theirs[f"{front}.fc1.weight"][80, 3] == ours["blocks/up_DF"][1, 3, 80]
    positions = theirs["model.decoder.embed_positions.weight"]
    assert positions.shape == (82, 64) and not positions[:2].any()
    np.testing.assert_array_equal(positions[2:], ours["position_embedding_LD"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "qk_norm=True"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"activation": "silu"}, "activation='silu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        ({"head_dim": 32}, "head_dim=32"),
    ],
)
def test_what_opt_cannot_hold_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"OPT cannot hold {message}"):
        opt.check(dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function='gelu'"),
        ({"enable_bias": True}, "enable_bias=True"),
        ({"layer_norm_elementwise_affine": True}, "elementwise_affine=True"),
        ({"do_layer_norm_before": False}, "do_layer_norm_before=False"),
        ({"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
        ({"word_embed_proj_dim": 32}, "word_embed_proj_dim=32"),
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"ffn_dim": "wide"}, "ffn_dim='wide'"),
        ({"vocab_size": 0}, "vocab_size=0"),
    ],
)
def test_an_opt_that_is_another_function_is_refused(changes, message):
    record = opt.to_config(CONFIG, "float32") | changes
    with pytest.raises(ValueError, match=message):
        opt.from_config("config.json", record)


def test_an_opt_that_says_nothing_has_biases_and_is_refused():
    record = opt.to_config(CONFIG, "float32")
    del record["enable_bias"]
    with pytest.raises(ValueError, match="enable_bias=True, CM3Leon has False"):
        opt.from_config("config.json", record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.decoder.layers.2.fc1.weight"), "1 arrays are missing"),
        (lambda s: s.update(x=s[opt.EMBEDDING]), "1 arrays have no place .*: x"),
        (
            lambda s: s.update({opt.EMBEDDING: Spec(np.dtype("float32"), (51, 64))}),
            r"embed_tokens.weight \[51, 64\], expected \[50, 64\]",
        ),
        (
            lambda s: s.update({opt.EMBEDDING: Spec(np.dtype("int64"), (50, 64))}),
            "is int64, weights are floating",
        ),
    ],
)
def test_names_and_shapes_without_a_place_are_named(change, message):
    rows = opt.rows(CONFIG)
    specs = table.their_specs(rows, np.dtype("float32"))
    change(specs)
    with pytest.raises(ValueError, match=message):
        table.check_names("folder", specs, rows, ())


def _theirs(model, dtype="float32", **changes):
    """transformers' model with our weights, through its own state dict."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    record = opt.to_config(model.config, dtype) | changes
    theirs = transformers.OPTForCausalLM(transformers.OPTConfig(**record)).eval()
    weights = {name: torch.tensor(x) for name, x in to_theirs(model).items()}
    missing = theirs.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {opt.TIED_HEAD}
    return theirs.to(getattr(torch, dtype))


def _their_logits(theirs, tokens_BL, **inputs):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return theirs(torch.tensor(tokens_BL), **inputs).logits.float().numpy()


@pytest.mark.torch
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_logits_equal_those_of_transformers(tie_embeddings):
    model = random_model(dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings))
    ours, theirs = logits(model, TOKENS_BL), _their_logits(_theirs(model), TOKENS_BL)
    assert ours.std() > 0.05  # there is something to compare
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.torch
def test_logits_in_bfloat16_equal_those_of_transformers():
    model = random_model(CONFIG)
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    theirs = _their_logits(_theirs(model, "bfloat16"), TOKENS_BL)
    ours = logits(_with_config(model, config), TOKENS_BL)
    np.testing.assert_allclose(ours, theirs, atol=2e-2)


def _with_config(model, config):
    make = lambda: transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    return state.fill(jax.eval_shape(make), arrays_of(model))


def _shift_positions(theirs):
    weight = theirs.model.decoder.embed_positions.weight
    weight.data = weight.data.roll(-2, 0)


def _set_epsilon(theirs):
    for module in theirs.modules():
        if type(module).__name__ == "LayerNorm":
            module.eps = 1e-6


def _transpose(name):
    def spring(theirs):
        layer = theirs.model.decoder.layers[0].self_attn
        weight = getattr(layer, name).weight
        weight.data = weight.data.T.contiguous()

    return spring


def _heads_last(theirs):
    weight = theirs.model.decoder.layers[0].self_attn.v_proj.weight
    weight.data = weight.data.reshape(4, 16, 64).transpose(0, 1).reshape(64, 64)


def _swap_activation(name):
    def spring(theirs):
        from transformers.activations import ACT2FN

        for layer in theirs.model.decoder.layers:
            layer.activation_fn = ACT2FN[name]

    return spring


def _untie(theirs):
    torch = pytest.importorskip("torch")
    head = theirs.lm_head.weight.detach().clone()
    theirs.lm_head.weight = torch.nn.Parameter(head.flip(0))


@pytest.mark.torch
@pytest.mark.parametrize(
    "spring",
    [
        _shift_positions,
        _set_epsilon,
        _transpose("q_proj"),
        _transpose("out_proj"),
        _heads_last,
        _swap_activation("gelu"),
        _swap_activation("gelu_new"),
        _untie,
    ],
    ids=["positions", "epsilon", "q", "out", "heads", "gelu", "gelu_tanh", "head"],
)
def test_each_trap_that_is_sprung_turns_the_parity_red(spring):
    model = random_model(CONFIG)
    theirs = _theirs(model)
    spring(theirs)
    difference = np.abs(logits(model, TOKENS_BL) - _their_logits(theirs, TOKENS_BL))
    assert difference.max() > 5e-4  # five times what the parity allows


@pytest.mark.torch
def test_left_padding_changes_nothing_and_forgetting_its_mask_does():
    torch = pytest.importorskip("torch")
    model = random_model(CONFIG)
    theirs, num_pads = _theirs(model), 5
    padded_BL = np.pad(TOKENS_BL[:, :20], [(0, 0), (num_pads, 0)], constant_values=1)
    mask_BL = torch.tensor((padded_BL != 1).astype(np.int64))
    ours = logits(model, TOKENS_BL[:, :20])
    masked = _their_logits(theirs, padded_BL, attention_mask=mask_BL)[:, num_pads:]
    forgotten = _their_logits(theirs, padded_BL)[:, num_pads:]
    np.testing.assert_allclose(ours, masked, atol=1e-4)
    assert np.abs(ours - forgotten).max() > 5e-4


@pytest.mark.torch
def test_a_folder_that_only_transformers_has_touched_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    record = opt.to_config(CONFIG, "float32")
    theirs = transformers.OPTForCausalLM(transformers.OPTConfig(**record)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    config, ours = huggingface.read_config(tmp_path)
    assert ours is None and config == CONFIG
    found = huggingface.open_weights(tmp_path, config)
    dtype = np.dtype("float32")
    rows = opt.rows(config)
    arrays = _to_ours({name: found.tensor(name) for name in found.specs}, config)
    read = lambda name, row: arrays[name] if row is None else arrays[name][row]
    make = table.make_theirs(rows, read, dtype)
    for name, tensor in theirs.state_dict().items():
        if name != opt.TIED_HEAD:
            skip = 2 if "embed_positions" in name else 0  # rows that padding reads
            np.testing.assert_array_equal(make(name)[skip:], tensor.numpy()[skip:])
    fresh = transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    model = state.fill(fresh, arrays)
    their_logits = _their_logits(theirs, TOKENS_BL)
    np.testing.assert_allclose(logits(model, TOKENS_BL), their_logits, atol=1e-4)


def test_a_tied_head_that_is_not_the_embedding_is_refused(tmp_path):
    weights = to_theirs(random_model(CONFIG))
    weights[opt.TIED_HEAD] = weights[opt.EMBEDDING].copy()
    (tmp_path / "config.json").write_text(json.dumps(opt.to_config(CONFIG, "float32")))
    contiguous = lambda: {n: np.ascontiguousarray(x) for n, x in weights.items()}
    safetensors.numpy.save_file(contiguous(), tmp_path / "model.safetensors")
    huggingface.open_weights(tmp_path, CONFIG)
    weights[opt.TIED_HEAD][0, 0] += 1
    safetensors.numpy.save_file(contiguous(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="differs from the embedding"):
        huggingface.open_weights(tmp_path, CONFIG)
