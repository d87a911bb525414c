"""LPIPS' weights from PyTorch's files: parity with a definition in PyTorch, refusals."""

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.convert import lpips as convert
from cm3leon_jax.models import lpips

# torchvision's vgg16().features: the places of its convolutions, and how wide they are.
CONVS = dict(
    zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        [width for row in lpips.WIDTHS for width in row],
        strict=True,
    )
)
COMPARED = (2, 7, 14, 21, 28)  # the last of each resolution


@pytest.fixture(scope="module")
def tensors():
    rng, found, inputs = np.random.default_rng(0), {}, 3
    for place, width in CONVS.items():
        shape = (width, inputs, 3, 3)
        kernel = rng.standard_normal(shape, np.float32) * (2 / (9 * inputs)) ** 0.5
        found[f"features.{place}.weight"] = kernel
        bias = rng.standard_normal(width, np.float32)
        found[f"features.{place}.bias"] = 0.1 * bias
        inputs = width
    for number, place in enumerate(COMPARED):
        head = rng.uniform(size=(1, CONVS[place], 1, 1)).astype(np.float32)
        found[f"lin{number}.model.1.weight"] = head
    return found


def _slice(place):
    return 1 + next(i for i, last in enumerate((3, 8, 15, 22, 29)) if place <= last)


def test_one_file_of_lpips_and_two_files_are_the_same(tensors, tmp_path):
    heads = {name: array for name, array in tensors.items() if name.startswith("lin")}
    rest = {name: array for name, array in tensors.items() if name not in heads}
    rest["classifier.0.bias"] = np.zeros(3, np.float32)
    whole = dict(heads) | {"scaling_layer.shift": np.zeros(3, np.float32)}
    for name, array in rest.items():
        if name.startswith("features."):
            _, place, leaf = name.split(".")
            whole[f"net.slice{_slice(int(place))}.{place}.{leaf}"] = array
    for file, part in (("vgg16", rest), ("heads", heads), ("whole", whole)):
        storage.save_arrays(tmp_path / f"{file}.safetensors", part)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    files = [["vgg16", "heads"], ["whole"]]
    one, two = (
        convert.read([tmp_path / f"{name}.safetensors" for name in names])(
            image, -image
        )
        for names in files
    )
    np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"'head\.0' has shape None"):
        convert.read([tmp_path / "vgg16.safetensors"])


def test_no_file_is_refused():
    with pytest.raises(ValueError, match="LPIPS needs its weights"):
        convert.read(())


@pytest.mark.torch
def test_distance_is_that_of_a_definition_in_pytorch(tensors, tmp_path):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    path = tmp_path / "a.safetensors"
    storage.save_arrays(path, tensors)
    pictures = np.random.default_rng(1).uniform(-1, 1, (2, 2, 32, 32, 3))
    a, b = pictures.astype(np.float32)
    weights = {name: torch.from_numpy(array) for name, array in tensors.items()}

    def features(image):
        shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
        h = (torch.from_numpy(image).permute(0, 3, 1, 2) - shift) / scale
        for place in CONVS:
            if place in (5, 10, 17, 24):
                h = functional.max_pool2d(h, 2)
            kernel = weights[f"features.{place}.weight"]
            h = functional.conv2d(
                h, kernel, weights[f"features.{place}.bias"], padding=1
            )
            h = h.relu()
            if place in COMPARED:
                yield h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)

    expected = torch.zeros(2)
    for number, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        head = weights[f"lin{number}.model.1.weight"]
        expected += functional.conv2d((x - y) ** 2, head).mean(dim=(1, 2, 3))
    np.testing.assert_allclose(convert.read([path])(a, b), expected, rtol=1e-4)
