import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cm3leon_jax.models import transformer
from cm3leon_jax.train import checkpoint, export

CONFIG = transformer.TransformerConfig(
    vocab_size=48, num_layers=2, num_heads=2, model_dim=16, head_dim=8, mlp_dim=32,
    max_length=16, product_dtype="bfloat16", init_std=0.1,
)  # fmt: skip


def _model():
    return transformer.Transformer(CONFIG, rngs=nnx.Rngs(params=3))


def _arrays(model):
    return {name: np.asarray(x) for name, x in checkpoint.flatten(model).items()}


def test_exported_weights_come_back_to_the_bit_with_what_was_said(tmp_path):
    model = _model()
    digest = export.write(tmp_path, model, "float32", {"coordinates": 16})
    again, about = export.read(tmp_path)
    for name, array in _arrays(model).items():
        np.testing.assert_array_equal(array, _arrays(again)[name], err_msg=name)
    assert about["weights"] == digest
    assert about["coordinates"] == 16
    assert again.config.product_dtype is None
    assert again.config.num_layers == 2


@pytest.mark.parametrize("remat", ["none", "full"])
def test_arrays_of_a_checkpoint_are_the_same_for_scan_and_loop(remat):
    """A run may change between them: nothing needs to be converted."""
    configs = [
        dataclasses.replace(CONFIG, scan_layers=scan, remat=remat)
        for scan in (True, False)
    ]
    scanned, looped = (
        _arrays(transformer.Transformer(config, rngs=nnx.Rngs(params=3)))
        for config in configs
    )
    assert scanned.keys() == looped.keys()
    for name, array in scanned.items():
        np.testing.assert_array_equal(array, looped[name], err_msg=name)


def test_bfloat16_export_is_the_rounded_model_in_half_the_bytes(tmp_path):
    model = _model()
    export.write(tmp_path / "whole", model, "float32", {})
    export.write(tmp_path / "half", model, "bfloat16", {})
    again, _ = export.read(tmp_path / "half")
    for name, array in _arrays(model).items():
        rounded = np.asarray(jnp.asarray(array, jnp.bfloat16).astype(jnp.float32))
        np.testing.assert_array_equal(rounded, _arrays(again)[name], err_msg=name)
    sizes = {
        name: (tmp_path / name / export.WEIGHTS_FILE).stat().st_size
        for name in ("whole", "half")
    }
    assert sizes["half"] < 0.6 * sizes["whole"]
    assert jax.tree.leaves(again)[0].dtype == jnp.float32


def test_other_weights_than_those_described_are_refused(tmp_path):
    export.write(tmp_path, _model(), "float32", {})
    path = tmp_path / export.WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"model\.safetensors has SHA-256 .* says"):
        export.read(tmp_path)


def test_unknown_dtype_and_format_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dtype='int8' must be one of float32"):
        export.write(tmp_path, _model(), "int8", {})
    export.write(tmp_path, _model(), "float32", {"format": 9})
    with pytest.raises(ValueError, match="has format 9, this version reads 1"):
        export.read(tmp_path)
