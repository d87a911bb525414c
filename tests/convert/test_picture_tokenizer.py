"""Laws of the image tokenizer in PyTorch: the same codes, the same pixels, traps."""

import dataclasses
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cm3leon_jax.convert import picture_tokenizer, table
from cm3leon_jax.convert.safetensors_file import Spec
from cm3leon_jax.models import super_resolution, vqgan
from cm3leon_jax.tokenizers import image
from cm3leon_jax.upscalers import rrdb
from tests.small_models import PIXELS

SMALL = {
    "image_size": 16, "base_channels": 8, "num_res_blocks": 1, "latent_channels": 6, "code_dim": 5,
    "codebook_size": 24,
}  # fmt: skip
KINDS = {
    "published": PIXELS,
    "patches": vqgan.VqganConfig(
        **SMALL,
        patch_size=4,
        multipliers=(1,),
        encoder_kernels=(1,),
        decoder_kernels=(1,),
        use_mid_block=False,
        attention_sizes=(),
        norm="position",
    ),
    "normalised": vqgan.VqganConfig(
        **SMALL,
        multipliers=(1, 3),
        encoder_kernels=(3, 1),
        decoder_kernels=(1, 3),
        use_mid_attention=False,
        attention_sizes=(16, 8),
        use_l2_norm=True,
    ),
}
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


def _model(config, seed=0):
    """A network whose every array counts: fresh ones have zeros and ones."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        # Norms have one dimension, kernels have inputs; entries are apart.
        inputs = math.prod(leaf.shape[:-1]) if leaf.ndim == 4 else 4
        array = rng.normal(0, inputs**-0.5, leaf.shape).astype(np.float32)
        return jnp.asarray(array + (0.7 if leaf.ndim == 1 else 0))

    return jax.tree.map(
        draw, nnx.eval_shape(lambda: vqgan.Vqgan(config, rngs=nnx.Rngs(0)))
    )


def _convert(model, folder):
    image.save(model, folder / "ours")
    picture_tokenizer.write(folder / "vqgan", folder / "ours")


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_gives_the_same_file(tmp_path, kind):
    _convert(_model(KINDS[kind]), tmp_path)
    picture_tokenizer.read(tmp_path / "vqgan", tmp_path / "again")
    for name in (image.WEIGHTS_FILE, image.CONFIG_FILE):
        ours, again = tmp_path / "ours" / name, tmp_path / "again" / name
        assert ours.read_bytes() == again.read_bytes()


def test_names_are_those_of_published_vqgans():
    specs = {
        name: Spec(np.dtype("float32"), tuple(x.shape))
        for name, x in image.shapes(vqgan.VqganConfig()).items()
    }
    theirs = table.their_specs(picture_tokenizer.rows(specs), np.dtype("float32"))
    for name, shape in {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.0.downsample.conv.bias": (128,),
        "encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        "decoder.up.3.block.2.norm2.weight": (512,),
        "quantize.embedding.weight": (8192, 256),
        "post_quant_conv.weight": (256, 256, 1, 1),
    }.items():
        assert theirs[name].shape == shape, name


def test_an_array_of_no_vqgan_is_refused():
    with pytest.raises(ValueError, match="'lora' of shape"):
        picture_tokenizer.rows({"lora": Spec(np.dtype("float32"), (2, 2))})


def _pixels():
    """The file that is copied beside the weights, as its users import it."""
    pytest.importorskip("torch")
    path = pathlib.Path(picture_tokenizer.__file__).with_name("pixels.py")
    spec = importlib.util.spec_from_file_location("pixels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _their_levels(module, folder, codes_NP):
    """The decoder's output before it is rounded to bytes."""
    torch = pytest.importorskip("torch")
    pixels = module.Pixels(folder)
    with torch.no_grad():
        entries = pixels.entries()[torch.tensor(codes_NP)]
        x = entries.unflatten(1, (pixels.side, pixels.side)).permute(0, 3, 1, 2)
        out = pixels.decoder(pixels.post_quant_conv(x))
    return out.permute(0, 2, 3, 1).numpy()


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_pixels_are_the_same(tmp_path, kind):
    model = _model(KINDS[kind])
    _convert(model, tmp_path)
    module = _pixels()
    theirs, ours = module.Pixels(tmp_path / "vqgan"), image.ImageTokenizer(model)
    codes_NP = ours.encode(PICTURES)
    assert len(np.unique(codes_NP)) > 2
    found = [theirs.encode(Image.fromarray(x)).numpy() for x in PICTURES]
    np.testing.assert_array_equal(codes_NP, np.concatenate(found))
    codes_NP = np.random.default_rng(1).integers(0, 24, codes_NP.shape)
    levels = np.asarray(model.decode(codes_NP))
    their_levels = _their_levels(module, tmp_path / "vqgan", codes_NP)
    np.testing.assert_allclose(levels, their_levels, atol=1e-4)
    torch = pytest.importorskip("torch")
    drawn = [np.asarray(x) for x in theirs.decode(torch.tensor(codes_NP))]
    difference = np.stack(drawn).astype(int) - ours.decode(codes_NP)
    assert np.abs(difference).max() <= 1


def _pad_both_sides(module):
    module.Scale.forward = lambda self, x: (
        self.conv(module.F.pad(x, (1, 0, 1, 0)))
        if self.stride > 1
        else self.conv(module.F.interpolate(x, scale_factor=2.0, mode="nearest"))
    )


def _group_epsilon(module):
    make = module.Norm.__init__

    def init(self, channels, config):
        make(self, channels, config | {"norm_epsilon": 1e-5})

    module.Norm.__init__ = init


def _group_count(module):
    make = module.Norm.__init__

    def init(self, channels, config):
        make(self, channels, config | {"num_groups": 2})

    module.Norm.__init__ = init


@pytest.mark.torch
@pytest.mark.parametrize("spring", [_pad_both_sides, _group_epsilon, _group_count])
def test_each_trap_that_is_sprung_turns_the_parity_red(tmp_path, spring):
    torch = pytest.importorskip("torch")
    model = _model(PIXELS)
    small = jax.tree.map(lambda x: x * 1e-2, model.encoder.conv_in)
    model.encoder.conv_in = small  # little variance: the epsilon of the norm counts
    _convert(model, tmp_path)
    images = vqgan.from_bytes(jax.numpy.asarray(PICTURES))
    ours = np.asarray(model.latents(images))

    def theirs(module):
        pixels = module.Pixels(tmp_path / "vqgan")
        with torch.no_grad():
            shown = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
            found = pixels.quant_conv(pixels.encoder(shown))
        return found.permute(0, 2, 3, 1).numpy()

    np.testing.assert_allclose(ours, theirs(_pixels()), atol=1e-4)
    module = _pixels()
    spring(module)
    assert np.abs(ours - theirs(module)).max() > 5e-4


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(16, 16), (40, 23), (17, 90), (9, 12)])
def test_pictures_of_any_size_are_fitted_as_here(shape):
    from cm3leon_jax.decoding import writer

    picture = np.random.default_rng(3).integers(0, 256, (*shape, 3)).astype(np.uint8)
    theirs = np.asarray(_pixels().fit(Image.fromarray(picture), 16))
    np.testing.assert_array_equal(theirs, writer.fit(picture, 16))


def test_weights_of_another_config_are_refused(tmp_path):
    _convert(_model(PIXELS), tmp_path)
    other = dataclasses.replace(PIXELS, code_dim=7)
    image.save(_model(other), tmp_path / "other")
    config = (tmp_path / "other" / image.CONFIG_FILE).read_bytes()
    (tmp_path / "vqgan" / image.CONFIG_FILE).write_bytes(config)
    with pytest.raises(ValueError, match="have another shape than config"):
        picture_tokenizer.read(tmp_path / "vqgan", tmp_path / "again")


@pytest.mark.torch
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("use_bicubic_base", [False, True])
def test_large_pictures_are_the_same(tmp_path, scale, use_bicubic_base):
    config = super_resolution.SuperResolutionConfig(
        scale, channels=8, num_blocks=2, growth_channels=4,
        use_bicubic_base=use_bicubic_base,
    )  # fmt: skip
    make = lambda: super_resolution.SuperResolution(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32)
    rrdb.save(jax.tree.map(draw, nnx.eval_shape(make)), tmp_path / "ours")
    picture_tokenizer.write(tmp_path / "upscaler", tmp_path / "ours")
    theirs = _pixels().Upscaler(tmp_path / "upscaler")
    picture = PICTURES[0, :7, :9]  # odd sides are padded before they are folded
    large = np.asarray(theirs.enlarge(Image.fromarray(picture))).astype(int)
    ours = rrdb.Upscaler.load(tmp_path / "ours").enlarge(picture[None])[0]
    assert large.shape == ours.shape == (scale * 7, scale * 9, 3)
    assert np.abs(large - ours).max() <= 1 and ours.std() > 10
