"""A small file of weights."""

import numpy as np
import pytest

from cm3leon_jax.convert import safetensors_file


@pytest.fixture
def weights(tmp_path):
    """A safetensors file of two arrays."""
    path = tmp_path / "model.safetensors"
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float32),
    }
    specs = {n: safetensors_file.Spec(x.dtype, x.shape) for n, x in arrays.items()}
    safetensors_file.write(path, specs, arrays.items())
    return path
