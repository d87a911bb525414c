"""Real-ESRGAN's weights: parity with a definition in PyTorch, ways back, refusals."""

import numpy as np
import pytest
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.convert import super_resolution as convert
from cm3leon_jax.models import super_resolution
from cm3leon_jax.upscalers import rrdb


def _their_names(num_blocks):
    """Written out as the public files have them."""
    dense = [
        f"body.{i}.rdb{j}.conv{k}"
        for i in range(num_blocks)
        for j in (1, 2, 3)
        for k in (1, 2, 3, 4, 5)
    ]
    ends = ["conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    return {f"{layer}.{leaf}" for layer in dense + ends for leaf in ("weight", "bias")}


def _tensors(scale, num_blocks=2, width=8, growth=4):
    """Random weights under their names, in their layout."""
    rng, found = np.random.default_rng(0), {}
    for name in sorted(_their_names(num_blocks)):
        inputs, outputs = width, width
        if "rdb" in name:
            conv = int(name.split("conv")[1][0])
            inputs = width + (conv - 1) * growth
            outputs = growth if conv < 5 else width
        elif name.startswith("conv_first"):
            inputs = {4: 3, 2: 12}[scale]
        elif name.startswith("conv_last"):
            outputs = 3
        shape = (outputs, inputs, 3, 3) if name.endswith("weight") else (outputs,)
        array = rng.normal(size=shape) / np.sqrt(9 * inputs)
        found[name] = array.astype(np.float32)
    return found


@pytest.mark.parametrize("scale", [2, 4])
def test_read_and_written_again_is_the_same(scale, tmp_path):
    theirs = _tensors(scale)
    storage.save_arrays(tmp_path / "a.safetensors", theirs)
    convert.load(tmp_path / "a.safetensors", tmp_path / "ours")
    config = rrdb.load_model(tmp_path / "ours").config
    assert config == super_resolution.SuperResolutionConfig(scale, 8, 2, 4)
    convert.export(tmp_path / "ours", tmp_path / "b.safetensors")
    back, _ = storage.load_arrays(tmp_path / "b.safetensors")
    assert back.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_names_are_theirs():
    config = super_resolution.SuperResolutionConfig(4, 4, 1, 4)
    model = super_resolution.SuperResolution(config, rngs=nnx.Rngs(0))
    assert convert.tensors(model).keys() == _their_names(1)
    ours, theirs = "body.0.rdb.2.conv.4.kernel", "body.0.rdb3.conv5.weight"
    assert (convert._theirs(ours), convert._ours(theirs)) == (theirs, ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("conv_first.weight"), "no RRDB network"),
        (lambda a: a.pop("conv_hr.bias"), r"'conv_hr\.bias' has shape None"),
        (
            lambda a: a.update({"conv_up1.bias": np.zeros(3, np.float32)}),
            r"'conv_up1\.bias' has shape \(3,\).*\(8,\)",
        ),
        (
            lambda a: a.update(
                {"conv_first.weight": np.zeros((8, 48, 3, 3), np.float32)}
            ),
            "reads 48 channels",
        ),
        (lambda a: a["conv_hr.bias"].fill(np.inf), "not finite"),
    ],
)
def test_other_tensors_are_refused_by_name(change, message, tmp_path):
    arrays = _tensors(4)
    change(arrays)
    storage.save_arrays(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match=message):
        convert.load(tmp_path / "a.safetensors", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_bicubic_base_is_not_exported():
    config = super_resolution.SuperResolutionConfig(4, 4, 1, 4, use_bicubic_base=True)
    model = super_resolution.SuperResolution(config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_bicubic_base=False"):
        convert.tensors(model)


def _enlarge_in_torch(arrays, image, scale):
    """The generator from the papers' figures, in PyTorch's own operations."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rectify = lambda x: functional.leaky_relu(x, 0.2)

    def conv(x, name):
        return functional.conv2d(
            x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1
        )

    def dense(x, name):
        seen = [x]
        for k in (1, 2, 3, 4):
            seen.append(rectify(conv(torch.cat(seen, 1), f"{name}.conv{k}")))
        return x + 0.2 * conv(torch.cat(seen, 1), f"{name}.conv5")

    with torch.no_grad():
        x = torch.from_numpy(image).permute(0, 3, 1, 2)
        x = functional.pixel_unshuffle(x, 2) if scale == 2 else x
        first = h = conv(x, "conv_first")
        for block in ("body.0", "body.1"):
            inside = h
            for j in (1, 2, 3):
                inside = dense(inside, f"{block}.rdb{j}")
            h = h + 0.2 * inside
        h = first + conv(h, "conv_body")
        for name in ("conv_up1", "conv_up2"):
            h = functional.interpolate(h, scale_factor=2, mode="nearest")
            h = rectify(conv(h, name))
        h = conv(rectify(conv(h, "conv_hr")), "conv_last")
        return h.permute(0, 2, 3, 1).numpy()


@pytest.mark.torch
@pytest.mark.parametrize("scale", [2, 4])
def test_network_is_real_esrgans(scale, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = _tensors(scale)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"params": {}, "params_ema": tensors}, tmp_path / "x.pth")
    model = convert.read(tmp_path / "x.pth")
    image = np.random.default_rng(1).uniform(size=(2, 8, 12, 3)).astype(np.float32)
    expected = _enlarge_in_torch(arrays, image, scale)
    np.testing.assert_allclose(model(image), expected, atol=1e-4)
    assert expected.shape == (2, scale * 8, scale * 12, 3)
    assert np.abs(expected).max() > 0.1
