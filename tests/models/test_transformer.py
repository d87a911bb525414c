"""Laws of the transformer: sizes, start values, causality, packing, cache, parity."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import attention, transformer

SMALL = transformer.TransformerConfig(
    num_layers=2,
    num_heads=2,
    model_dim=16,
    head_dim=8,
    mlp_dim=64,
    vocab_size=50,
    max_length=12,
)
SIZES = {  # CM3Leon, Table 3: layers, width, heads, parameters
    "350m": (24, 1024, 16, 373_293_056),
    "760m": (24, 1536, 16, 786_432_000),
    "7b": (32, 4096, 32, 6_727_663_616),
}


@functools.cache
def make(**changes):
    """A small model whose zero-initialised projections are drawn too."""
    config = dataclasses.replace(SMALL, **changes)
    init = lambda: transformer.Transformer(config, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(1).normal
    value = lambda x: jnp.asarray(0.3 * draw(size=x.shape), x.dtype)
    return jax.tree.map(value, jax.eval_shape(init))


@jax.jit
def features(model, tokens, positions, segments):
    return model(tokens, positions, segments)


@functools.cache
def gradients(model):
    loss = lambda m: jnp.square(m.head(m(*rows()))).mean()
    return jax.tree.leaves(jax.jit(jax.grad(loss))(model))


def rows(seed=0, batch=2, length=12):
    draw = np.random.default_rng(seed).integers(0, 50, (batch, length))
    tokens = jnp.asarray(draw, jnp.int32)
    positions = jnp.tile(jnp.arange(length)[None], (batch, 1))
    return tokens, positions, jnp.ones((batch, length), jnp.int32)


@pytest.mark.parametrize("size", SIZES)
def test_number_of_parameters_is_the_papers(size):
    layers, width, heads, expected = SIZES[size]
    config = transformer.TransformerConfig(
        num_layers=layers,
        num_heads=heads,
        model_dim=width,
        head_dim=width // heads,
        mlp_dim=4 * width,
        vocab_size=65_536,
        max_length=4096,
    )
    make = lambda: transformer.Transformer(config, rngs=nnx.Rngs(0))
    count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(make)))
    assert count == expected


def test_every_parameter_has_logical_axes_of_its_rank():
    model = make(qk_norm=True, tie_embeddings=False)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        name = [key.name for key in path if key.name != "value"]
        stacked = name[0] == "blocks"
        assert len(transformer.LOGICAL_AXES[name[-1]]) + stacked == leaf.ndim


def test_initial_values_are_the_papers_and_differ_by_layer():
    config = dataclasses.replace(SMALL, model_dim=64, mlp_dim=256, max_length=512)
    model = jax.jit(lambda: transformer.Transformer(config, rngs=nnx.Rngs(0)))()
    assert not np.any(model.blocks.out_HKD[...])
    assert not np.any(model.blocks.down_FD[...])
    assert not np.array_equal(model.blocks.up_DF[0], model.blocks.up_DF[1])
    for weights, std in (
        (model.token_embedding_VD, 0.006),
        (model.blocks.qkv_D3HK, 0.006),
        (model.blocks.up_DF, 0.006),
        (model.position_embedding_LD, 0.0002),
    ):
        values = np.asarray(weights[...])
        assert abs(values).max() <= 3 * std
        # A normal cut at 3 std keeps 98.66 % of its std.
        np.testing.assert_allclose(values.std(), 0.9866 * std, rtol=0.04)


def test_tokens_see_no_future_by_gradient():
    model, (tokens, positions, segments) = make(), rows()

    def logit(table):
        moved = nnx.clone(model)
        moved.position_embedding_LD[...] = table
        return moved.head(moved(tokens, positions, segments))[:, 5].sum()

    gradient = jax.jit(jax.grad(logit))(model.position_embedding_LD[...])
    assert np.abs(gradient[:6]).min(axis=0).all()
    assert not np.any(gradient[6:])


def test_packed_row_equals_each_document_alone():
    model, (tokens, _, _) = make(), rows(batch=1)
    positions = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]], jnp.int32)
    segments = jnp.array([[1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]], jnp.int32)
    packed = features(model, tokens, positions, segments)
    for lo, hi in ((0, 5), (5, 9)):
        ones = jnp.ones((1, hi - lo), jnp.int32)
        alone = features(model, tokens[:, lo:hi], positions[:, lo:hi], ones)
        np.testing.assert_allclose(packed[:, lo:hi], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    [("full", True), ("dots", False), ("offload", True), ("none", False)],
)
def test_scan_and_remat_change_no_gradient(remat, scan_layers):
    changed = gradients(make(remat=remat, scan_layers=scan_layers))
    for got, expected in zip(changed, gradients(make()), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_remat_policies_compute_again_what_they_say():
    def program(remat):
        loss = lambda m: jnp.square(m(*rows())).mean()
        return str(jax.make_jaxpr(jax.grad(loss))(make(remat=remat)))

    none, dots, offload, full = (
        program(remat).count("dot_general")
        for remat in ("none", "dots", "offload", "full")
    )
    # A layer has four products with weights: full computes all again (but the last,
    # which nothing needs), the others only those of attention.
    assert none < dots == offload == full - 3
    assert "<host>" in program("offload")


def test_unstacked_model_has_the_same_bits():
    model = make()
    blocks = transformer.unstack(model).blocks
    for i, block in enumerate(blocks):
        np.testing.assert_array_equal(block.up_DF[...], model.blocks.up_DF[i])
    assert isinstance(model.blocks, transformer.Block)


@pytest.mark.parametrize("pad", [0, 3])
def test_cached_decoding_equals_full_forward(pad):
    model, (tokens, positions, segments) = make(qk_norm=True), rows()
    full = features(model, tokens, positions, segments)
    decoder = transformer.unstack(model)
    extend = jax.jit(lambda m, *args: m.extend(*args))
    # A prompt of five tokens padded on the left, then one token at a time.
    cache = decoder.init_cache(2, 16)
    widen = ((0, 0), (pad, 0))
    valid = jnp.pad(jnp.ones((2, 5), bool), widen)
    prompt, places = (jnp.pad(x[:, :5], widen) for x in (tokens, positions))
    x, cache = extend(decoder, prompt, places, cache, valid)
    np.testing.assert_allclose(x[:, pad:], full[:, :5], atol=1e-5)
    for i in range(5, 12):
        one = slice(i, i + 1)
        x, cache = extend(decoder, tokens[:, one], positions[:, one], cache)
        np.testing.assert_allclose(x, full[:, one], atol=1e-5)
    assert cache.length == 12 + pad


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_head_of_some_ids_is_a_slice_of_all_logits(tie_embeddings):
    model = make(tie_embeddings=tie_embeddings)
    x = features(model, *rows())
    every = model.head(x)
    assert every.shape == (2, 12, 50) and every.dtype == jnp.float32
    np.testing.assert_allclose(model.head(x, 10, 7), every[..., 10:17], atol=1e-6)


def test_bfloat16_is_close_to_float32():
    full = features(make(), *rows())
    half = features(make(dtype="bfloat16"), *rows())
    assert half.dtype == jnp.bfloat16
    assert np.abs(half.astype(jnp.float32) - full).mean() < 2e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "rleu"}, "activation='rleu' .* did you mean 'relu'"),
        ({"remat": "fully"}, "remat='fully' .* did you mean 'full'"),
        ({"dtype": "bf16"}, "dtype='bf16' is not one of"),
        ({"num_heads": 0}, "num_heads=0 must be at least 1"),
    ],
)
def test_config_refuses_unknown_names_and_empty_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.torch
def test_logits_equal_those_of_transformers_opt():
    torch = pytest.importorskip("torch")
    opt = pytest.importorskip("transformers").OPTForCausalLM
    model = make()
    twin = opt(_opt_config()).eval()
    with torch.no_grad():
        for name, value in _opt_weights(model).items():
            twin.get_parameter(name).copy_(torch.tensor(value))
    tokens, _, _ = rows()
    positions = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]] * 2)
    segments = np.array([[1] * 5 + [2] * 7, [1] * 5 + [2] * 7], np.int32)
    mask = np.asarray(attention.packed_causal_mask(jnp.asarray(segments)))
    bias = np.where(mask, 0, np.finfo(np.float32).min).astype(np.float32)
    for packed in (True, False):
        if not packed:
            positions, segments = np.tile(np.arange(12), (2, 1)), np.ones_like(segments)
            bias = np.where(np.tril(np.ones((2, 1, 12, 12))), 0, bias.min())
        with torch.no_grad():
            theirs = twin(
                torch.tensor(np.asarray(tokens)),
                attention_mask=torch.tensor(bias, dtype=torch.float32),
                position_ids=torch.tensor(positions),
            ).logits
        ours = model.head(model(tokens, jnp.asarray(positions), jnp.asarray(segments)))
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def _opt_config():
    import transformers

    return transformers.OPTConfig(
        vocab_size=SMALL.vocab_size,
        hidden_size=SMALL.model_dim,
        word_embed_proj_dim=SMALL.model_dim,
        num_hidden_layers=SMALL.num_layers,
        num_attention_heads=SMALL.num_heads,
        ffn_dim=SMALL.mlp_dim,
        max_position_embeddings=SMALL.max_length,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        dropout=0.0,
        attn_implementation="eager",
    )


def _opt_weights(model):
    """OPT's weights by name; its positions have two unused rows in front."""
    width, layers = SMALL.model_dim, "model.decoder.layers"
    weights = {
        "model.decoder.embed_tokens.weight": model.token_embedding_VD[...],
        "model.decoder.embed_positions.weight": np.pad(
            model.position_embedding_LD[...], ((2, 0), (0, 0))
        ),
    }
    for i, block in enumerate(transformer.unstack(model).blocks):
        for j, name in enumerate("qkv"):
            weight = np.asarray(block.qkv_D3HK[...])[:, j].reshape(width, width).T
            weights[f"{layers}.{i}.self_attn.{name}_proj.weight"] = weight
        out = np.asarray(block.out_HKD[...]).reshape(width, width).T
        weights[f"{layers}.{i}.self_attn.out_proj.weight"] = out
        weights[f"{layers}.{i}.fc1.weight"] = np.asarray(block.up_DF[...]).T
        weights[f"{layers}.{i}.fc2.weight"] = np.asarray(block.down_FD[...]).T
    return {name: np.array(value) for name, value in weights.items()}
