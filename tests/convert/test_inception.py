"""Inception v3 against a definition in PyTorch, and its file read back."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from cm3leon_jax.convert import inception as convert
from cm3leon_jax.models import inception

CONFIG = inception.InceptionConfig(width=4, num_classes=10)


def _tensors(config, seed=0):
    """A state dict of random weights, in PyTorch's names and layouts."""
    shapes = nnx.eval_shape(lambda: inception.Inception(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    found = {}
    for path, leaf in nnx.to_flat_state(nnx.state(shapes)):
        shape = leaf.get_value().shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        array = rng.normal(size=shape[::-1] if len(shape) == 2 else shape)
        if len(shape) > 1:
            array /= np.sqrt(np.prod(array.shape[1:]) / 2)
        else:
            array = 1 + 0.2 * np.abs(array) if "var" in path[-1] else 0.3 * array + 0.5
        found[convert.theirs(path)] = array.astype(np.float32)
    return found


def test_a_file_is_read_with_its_widths(tmp_path):
    tensors = _tensors(CONFIG)
    safetensors.numpy.save_file(tensors, tmp_path / "net.safetensors")
    model = convert.read(tmp_path / "net.safetensors")
    assert model.config == CONFIG
    kernel = tensors["Mixed_7b.branch3x3_2a.conv.weight"]
    np.testing.assert_array_equal(
        model.Mixed_7b.branch3x3_2a.conv.kernel[...], kernel.transpose(2, 3, 1, 0)
    )
    mean = tensors["Mixed_6a.branch3x3.bn.running_mean"]
    np.testing.assert_array_equal(model.Mixed_6a.branch3x3.mean_C[...], mean)


@pytest.mark.parametrize("change", ["missing", "shape", "other"])
def test_a_file_of_another_net_is_refused_by_name(tmp_path, change):
    tensors = _tensors(CONFIG)
    name = "Mixed_6c.branch7x7_2.conv.weight"
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][:1]
    else:
        tensors, name = {"weight": np.zeros(3, np.float32)}, "Inception"
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=name):
        convert.read(path)


def test_the_fids_own_net_has_its_number_of_parameters():
    config = inception.InceptionConfig()
    model = nnx.eval_shape(lambda: inception.Inception(config, rngs=nnx.Rngs(0)))
    sizes = jax.tree.map(lambda leaf: leaf.size, nnx.state(model))
    # torchvision's 23,834,568 with 1,000 classes, 8 classes more, and 94 layers'
    # running statistics, which it counts as buffers.
    statistics = 2 * 17_216
    expected = 23_834_568 + 8 * 2_049 + statistics
    assert sum(jax.tree.leaves(sizes)) == expected
    assert config.num_features == 2_048


def test_pictures_are_prepared_between_minus_one_and_one():
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    pictures[:, :, 4:] = 255
    made = np.asarray(inception.prepare(pictures))
    assert made.shape == (1, 299, 299, 3)
    assert (made.min(), made.max()) == (-1, 1)
    np.testing.assert_array_equal(made[:, :, 0], -1)


@pytest.mark.torch
@pytest.mark.parametrize("size", [64, 299, 400])
def test_features_and_logits_equal_a_definition_in_pytorch(tmp_path, size):
    torch = pytest.importorskip("torch")
    tensors = _tensors(CONFIG)
    torch.save(
        {name: torch.tensor(array) for name, array in tensors.items()},
        tmp_path / "net.pth",
        _use_new_zipfile_serialization=False,  # as the public file was written
    )
    model = convert.read(tmp_path / "net.pth")
    pictures = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
    ours = model(inception.prepare(pictures))
    theirs = _torch_forward(torch, tensors, torch.tensor(pictures))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(one)).max() > 0.1  # not a net that died
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-4)


def _torch_forward(torch, tensors, pictures):
    """The FID's Inception v3 written down again, in PyTorch's own layout."""
    F = torch.nn.functional
    w = {name: torch.tensor(array) for name, array in tensors.items()}

    def unit(x, name, stride=1, padding=0):
        x = F.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
        bn = [w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var")]
        bn += [w[f"{name}.bn.{part}"] for part in ("weight", "bias")]
        return F.relu(F.batch_norm(x, *bn, training=False, eps=1e-3))

    def chain(x, *steps):
        for name, *how in steps:
            x = unit(x, name, *how)
        return x

    def pooled(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def a(x, n):
        dbl = [(f"{n}.branch3x3dbl_1",)]
        dbl += [(f"{n}.branch3x3dbl_{k}", 1, 1) for k in (2, 3)]
        five = ((f"{n}.branch5x5_1",), (f"{n}.branch5x5_2", 1, 2))
        parts = [unit(x, f"{n}.branch1x1"), chain(x, *five), chain(x, *dbl)]
        return torch.cat([*parts, unit(pooled(x), f"{n}.branch_pool")], 1)

    def b(x, n):
        dbl = ((f"{n}.branch3x3dbl_1",), (f"{n}.branch3x3dbl_2", 1, 1))
        dbl += ((f"{n}.branch3x3dbl_3", 2),)
        parts = [unit(x, f"{n}.branch3x3", 2), chain(x, *dbl)]
        return torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)

    def c(x, n):
        pads = {(1, 7): (0, 3), (7, 1): (3, 0)}
        row, column = pads[1, 7], pads[7, 1]
        seven = ((f"{n}.branch7x7_1",), (f"{n}.branch7x7_2", 1, row))
        seven += ((f"{n}.branch7x7_3", 1, column),)
        dbl = [(f"{n}.branch7x7dbl_1",)]
        dbl += [
            (f"{n}.branch7x7dbl_{k}", 1, row if k % 2 else column) for k in (2, 3, 4, 5)
        ]
        parts = [unit(x, f"{n}.branch1x1"), chain(x, *seven), chain(x, *dbl)]
        return torch.cat([*parts, unit(pooled(x), f"{n}.branch_pool")], 1)

    def d(x, n):
        three = ((f"{n}.branch3x3_1",), (f"{n}.branch3x3_2", 2))
        seven = ((f"{n}.branch7x7x3_1",), (f"{n}.branch7x7x3_2", 1, (0, 3)))
        seven += ((f"{n}.branch7x7x3_3", 1, (3, 0)), (f"{n}.branch7x7x3_4", 2))
        return torch.cat([chain(x, *three), chain(x, *seven), F.max_pool2d(x, 3, 2)], 1)

    def e(x, n, pool):
        three = unit(x, f"{n}.branch3x3_1")
        dbl = chain(x, (f"{n}.branch3x3dbl_1",), (f"{n}.branch3x3dbl_2", 1, 1))
        parts = [unit(x, f"{n}.branch1x1")]
        for inner, name in ((three, "branch3x3_2"), (dbl, "branch3x3dbl_3")):
            parts.append(unit(inner, f"{n}.{name}a", 1, (0, 1)))
            parts.append(unit(inner, f"{n}.{name}b", 1, (1, 0)))
        return torch.cat([*parts, unit(pool(x), f"{n}.branch_pool")], 1)

    x = pictures.permute(0, 3, 1, 2).float() / 255
    x = 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1
    x = chain(x, ("Conv2d_1a_3x3", 2), ("Conv2d_2a_3x3",), ("Conv2d_2b_3x3", 1, 1))
    x = chain(F.max_pool2d(x, 3, 2), ("Conv2d_3b_1x1",), ("Conv2d_4a_3x3",))
    x = F.max_pool2d(x, 3, 2)
    for name in ("5b", "5c", "5d"):
        x = a(x, f"Mixed_{name}")
    x = b(x, "Mixed_6a")
    for name in ("6b", "6c", "6d", "6e"):
        x = c(x, f"Mixed_{name}")
    x = d(x, "Mixed_7a")
    x = e(x, "Mixed_7b", pooled)
    x = e(x, "Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))
    features = x.mean((2, 3))
    return features, features @ w["fc.weight"].T + w["fc.bias"]
