"""Other programs' image tokenizers: parity with transformers, traps, ways back, refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.convert import files
from cm3leon_jax.convert import vqgan as convert
from cm3leon_jax.models import vqgan
from cm3leon_jax.tokenizers import image

SHAPE = vqgan.VqganConfig(
    image_size=16,
    base_channels=32,
    multipliers=(1, 2),
    encoder_kernels=(3, 3),
    decoder_kernels=(3, 3),
    num_res_blocks=1,
    attention_sizes=(8,),
    latent_channels=16,
    code_dim=8,
    codebook_size=64,
)
JANUS = dataclasses.replace(SHAPE, use_l2_norm=True)
CHAMELEON = dataclasses.replace(SHAPE, use_decoder=False, attention_sizes=())
BY_NAMING = {
    "taming": SHAPE,
    "llamagen": JANUS,
    "chameleon": CHAMELEON,
    "janus": JANUS,
}


def _model(config, seed=0):
    """Random weights, biases too, so that none can be swapped or left out unseen."""
    model = nnx.eval_shape(lambda: vqgan.Vqgan(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    rng, flat = np.random.default_rng(seed), {}
    for path, leaf in nnx.to_flat_state(state):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) == 4 else 4.0
        array = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        if path[-1] == "scale":
            array = 1.0 + array
        if path[-2:] == ("conv_in", "kernel") or path[-2:] == ("conv_in", "bias"):
            array *= 1e-3  # a variance beside which the norm's epsilon is not nothing
        flat[path] = leaf.replace(np.asarray(array, np.float32))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _weights(model):
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model))}


def _assert_same(one, two):
    for path, array in _weights(one).items():
        np.testing.assert_array_equal(array, _weights(two)[path], err_msg=str(path))
    assert one.config == two.config


@pytest.mark.parametrize("naming", ["taming", "llamagen", "chameleon"])
def test_written_and_read_again_is_the_same(naming, tmp_path):
    model = _model(BY_NAMING[naming])
    image.save(model, tmp_path / "ours")
    convert.export(tmp_path / "ours", tmp_path / "theirs", naming=naming)
    convert.load(tmp_path / "theirs", tmp_path / "back")
    _assert_same(model, image.load_model(tmp_path / "back"))


def test_janus_keeps_directions_and_everything_else():
    model = _model(JANUS)
    found = convert.tensors(model, "janus")
    lengths = np.linalg.norm(found["quantize.embedding.weight"], axis=-1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)
    kernel = model.decoder.up[0].block[1].conv1.kernel[...]
    np.testing.assert_array_equal(
        found["decoder.up.1.block.1.conv1.weight"], kernel.transpose(3, 2, 0, 1)
    )


@pytest.mark.parametrize(
    ("naming", "theirs"),
    [
        ("taming", "decoder.up.0.block.1.conv1.weight"),
        ("janus", "decoder.up.3.block.1.conv1.weight"),
        ("llamagen", "decoder.conv_blocks.3.res.1.conv1.weight"),
    ],
)
def test_names_are_those_of_the_docstring(naming, theirs):
    ours = "decoder.up.0.block.1.conv1.kernel"
    assert convert._theirs(ours, naming, 4) == theirs
    assert convert._theirs("encoder.mid.attn_1.q.bias", naming, 4) == (
        "encoder.mid.1.q.bias" if naming == "llamagen" else "encoder.mid.attn_1.q.bias"
    )


def test_tokenizer_within_a_larger_model_is_found(tmp_path):
    model = _model(CHAMELEON)
    arrays = convert.tensors(model, "chameleon")
    arrays = {f"model.vqmodel.{name}": array for name, array in arrays.items()}
    first, second = dict(list(arrays.items())[::2]), dict(list(arrays.items())[1::2])
    second["model.layers.0.weight"] = np.full((2, 2), np.nan, np.float32)
    places = {}
    for file, part in (("a.safetensors", first), ("b.safetensors", second)):
        storage.save_arrays(tmp_path / file, part)
        places |= dict.fromkeys(part, file)
    storage.write_json(tmp_path / files.INDEX, {"weight_map": places})
    config = {"model_type": "chameleon", "vq_config": {"resolution": 16}}
    storage.write_json(tmp_path / files.CONFIG, config)
    _assert_same(model, convert.read(tmp_path))


def test_training_leftovers_are_left_out(tmp_path):
    arrays = convert.tensors(_model(SHAPE), "taming")
    arrays["loss.discriminator.main.0.weight"] = np.zeros((4, 3, 4, 4), np.float32)
    storage.save_arrays(tmp_path / "last.safetensors", arrays)
    found = convert.read(tmp_path / "last.safetensors", image_size=16)
    _assert_same(_model(SHAPE), found)


def test_encoder_alone_encodes_and_refuses_to_decode(tmp_path):
    image.save(_model(CHAMELEON), tmp_path)
    tokenizer = image.ImageTokenizer.load(tmp_path, batch_size=2)
    codes = tokenizer.encode(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="encoder and a codebook alone"):
        tokenizer.decode(codes)


def _spoilt(change):
    arrays = convert.tensors(_model(SHAPE), "taming")
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({"quant_conv.bias": np.zeros(5, np.float32)}),
            r"'quant_conv\.bias' has shape \(5,\).*\(8,\)",
        ),
        (
            lambda a: a.pop("decoder.norm_out.bias"),
            r"'decoder\.norm_out\.bias' has shape None",
        ),
        (
            lambda a: a.update({"decoder.more": np.zeros(1, np.float32)}),
            r"'decoder\.more' has shape \(1,\).*None",
        ),
        (lambda a: a["quant_conv.bias"].fill(np.nan), "not finite"),
        (lambda a: a.pop("quantize.embedding.weight"), "no image tokenizer"),
        (lambda a: a.pop("encoder.conv_in.weight"), "no whole image tokenizer"),
    ],
    ids=["shape", "missing", "more", "nan", "codebook", "first"],
)
def test_other_tensors_are_refused_by_name(change, message, tmp_path):
    path = tmp_path / "vqgan.safetensors"
    storage.save_arrays(path, _spoilt(change))
    with pytest.raises(ValueError, match=message):
        convert.load(path, tmp_path / "ours", image_size=16)
    assert not (tmp_path / "ours").exists()


def test_unknown_size_of_pictures_is_asked_for(tmp_path):
    storage.save_arrays(tmp_path / "a.safetensors", _spoilt(lambda a: None))
    with pytest.raises(ValueError, match="give image_size"):
        convert.read(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="multiple of the stride"):
        convert.read(tmp_path / "a.safetensors", image_size=1)


@pytest.mark.parametrize(
    ("config", "naming", "message"),
    [
        (SHAPE, "dalle", "known are"),
        (SHAPE, "janus", "no normalised look-up"),
        (JANUS, "taming", "has a normalised look-up"),
        (CHAMELEON, "taming", "no decoder"),
        (dataclasses.replace(JANUS, attention_sizes=()), "llamagen", "lowest level"),
        (dataclasses.replace(SHAPE, base_channels=16), "taming", "does not divide"),
        (dataclasses.replace(SHAPE, norm_epsilon=1e-5), "taming", "with 1e-6"),
    ],
)
def test_shapes_that_they_have_not_are_refused(config, naming, message):
    with pytest.raises(ValueError, match=message):
        convert._check(config, naming)


# Parity with transformers.


@pytest.fixture
def theirs(tmp_path):
    """A function: naming -> transformers' module of our random weights."""
    transformers = pytest.importorskip("transformers")
    classes = {
        "chameleon": transformers.models.chameleon.ChameleonVQVAE,
        "janus": transformers.models.janus.JanusVQVAE,
    }

    def make(naming):
        image.save(_model(BY_NAMING[naming]), tmp_path / "ours")
        convert.export(tmp_path / "ours", tmp_path / naming, naming=naming)
        module, about = classes[naming].from_pretrained(
            tmp_path / naming, output_loading_info=True
        )
        assert not any(about.values()), about
        return module

    return make


PICTURES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


def _encode_there(module, normalised):
    """Their latents and codes; the look-up in the words of LlamaGen."""
    import torch

    with torch.no_grad():
        pixels = torch.from_numpy(PICTURES / 127.5 - 1.0).float().permute(0, 3, 1, 2)
        latents = module.quant_conv(module.encoder(pixels)).permute(0, 2, 3, 1)
        codes = module.encode(pixels).image_tokens.reshape(len(PICTURES), -1)
        if normalised:
            unit = torch.nn.functional.normalize
            entries = unit(module.quantize.embedding.weight, dim=-1)
            distances = torch.cdist(unit(latents, dim=-1).reshape(-1, 8), entries)
            same = distances.argmin(-1).reshape(codes.shape)
            assert torch.equal(codes, same)  # unit entries: JanusVQVAE agrees
    return latents.numpy(), codes.numpy()


def _encode_here(config):
    model = _model(config)
    images = vqgan.from_bytes(PICTURES)
    run = jax.jit(lambda images: (model.latents(images), model.encode(images)))
    return [np.asarray(x) for x in run(images)]


@pytest.mark.torch
@pytest.mark.parametrize("naming", ["chameleon", "janus"])
def test_encoding_is_that_of_transformers(naming, theirs):
    config = BY_NAMING[naming]
    latents, codes = _encode_here(config)
    expected, their_codes = _encode_there(theirs(naming), config.use_l2_norm)
    np.testing.assert_allclose(latents, expected, atol=1e-4)
    np.testing.assert_array_equal(codes, their_codes)
    assert len(np.unique(codes)) >= 10


@pytest.mark.torch
@pytest.mark.parametrize("naming", ["janus", "taming", "llamagen"])
def test_decoding_is_that_of_transformers(naming, theirs, tmp_path):
    """The other two are JanusVQVAE's weights under names that are written out here."""
    import torch

    module = theirs("janus")
    found = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    if naming == "taming":
        swap = {"decoder.up.0": "decoder.up.1", "decoder.up.1": "decoder.up.0"}
        found = {
            swap.get(name[:12], name[:12]) + name[12:]: array
            for name, array in found.items()
        }
    elif naming == "llamagen":
        words = {
            "coder.down.": "coder.conv_blocks.",
            "coder.up.": "coder.conv_blocks.",
            ".block.": ".res.",
            "mid.block_1": "mid.0",
            "mid.attn_1": "mid.1",
            "mid.block_2": "mid.2",
        }
        for old, new in words.items():
            found = {name.replace(old, new): array for name, array in found.items()}
    path = tmp_path / "file.pt"
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    torch.save({"state_dict": tensors, "step": 3}, path)
    model = convert.read(path, image_size=16)
    codes = np.random.default_rng(1).integers(0, 64, (2, 64))
    with torch.no_grad():
        expected = module.decode(torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(model.decode(codes), expected, atol=1e-4)


@pytest.mark.torch
def test_pictures_that_are_convolved_in_tiles_are_those_of_transformers(tmp_path):
    """Sides and widths from which `models/winograd.py` is taken on a CPU."""
    torch = pytest.importorskip("torch")

    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(
        JANUS, image_size=32, base_channels=64, attention_sizes=(16,)
    )
    model = _model(config)
    image.save(model, tmp_path / "ours")
    convert.export(tmp_path / "ours", tmp_path / "theirs", naming="janus")
    module = transformers.models.janus.JanusVQVAE.from_pretrained(tmp_path / "theirs")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    pixels = torch.from_numpy(pictures / 127.5 - 1.0).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        codes = module.encode(pixels).image_tokens.reshape(2, -1)
        expected = module.decode(codes).permute(0, 2, 3, 1).numpy()
    images = vqgan.from_bytes(pictures)
    assert "custom_vjp" in str(jax.make_jaxpr(model.latents)(images))
    np.testing.assert_array_equal(jax.jit(model.encode)(images), codes.numpy())
    found = jax.jit(model.decode)(codes.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("naming", "trap"),
    [
        ("chameleon", "padding"),
        ("chameleon", "epsilon"),
        ("chameleon", "swish"),
        ("janus", "look-up"),
    ],
)
def test_known_trap_is_seen(naming, trap, theirs, monkeypatch):
    expected, their_codes = _encode_there(theirs(naming), naming == "janus")
    config = BY_NAMING[naming]
    if trap == "padding":
        monkeypatch.setattr(
            vqgan.convolution.Downsample,
            "__call__",
            lambda self, x: self.conv(x[:, ::-1, ::-1])[:, ::-1, ::-1],
        )
    elif trap == "epsilon":
        config = dataclasses.replace(config, norm_epsilon=1e-5)
    elif trap == "swish":
        monkeypatch.setattr(nnx, "swish", nnx.gelu)
    else:
        config = dataclasses.replace(config, use_l2_norm=False)
    latents, codes = _encode_here(config)
    if trap == "look-up":
        assert (codes != their_codes).mean() > 0.05
    else:
        assert np.abs(latents - expected).max() > 1e-2


@pytest.mark.torch
def test_pickled_payload_is_refused_and_not_executed(tmp_path):
    torch = pytest.importorskip("torch")
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    path = tmp_path / "vqgan.ckpt"
    torch.save({"state_dict": {}, "callbacks": Payload()}, path)
    with pytest.raises(ValueError, match="names .*open.*not read"):
        convert.load(path, tmp_path / "ours", image_size=16)
    assert not canary.exists()
    assert not (tmp_path / "ours").exists()
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="no file of torch.save"):
        convert.read(path, image_size=16)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="no whole safetensors"):
        convert.read(tmp_path, image_size=16)
    (tmp_path / files.INDEX).write_text(
        json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}})
    )
    with pytest.raises(ValueError, match="files beside it"):
        convert.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights"):
        convert.read(tmp_path / "nowhere")
