"""Kernels equal a float64 reference, forward and backward; choices are refused early.

On CPU the kernels are interpreted; for a TPU they are compiled where libtpu is, for a
GPU lowered.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.models import attention, kernels

TILES = kernels.AttentionConfig(
    kind="splash",
    block_q=128,
    block_kv=256,
    block_kv_compute=128,
    block_q_dkv=128,
    block_kv_dkv=256,
    block_kv_dkv_compute=128,
)


def rows(length, cuts, heads=2, width=16):
    """Random arrays, and two rows of documents, padding at the end of one.

    The cuts are where the second and later documents of each row begin.
    """
    rng = np.random.default_rng(0)
    q, k, v, out = rng.normal(size=(4, 2, length, heads, width))
    segments = np.ones((2, length), np.int32)
    for row, starts in enumerate(cuts):
        for start in starts:
            segments[row, start:] += 1
    segments[1, length - length // 5 :] = 0
    return 4 * q, k, v, out, segments


def reference(q, k, v, out, segments):
    """Attention and its gradients in float64, written out; 0 on padding."""
    length, width = q.shape[1], q.shape[3]
    real = (segments > 0)[:, :, None, None]
    same = segments[:, :, None] == segments[:, None]
    mask = (same & np.tril(np.ones((length, length), bool)))[:, None]
    scores = np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(width)
    weights = np.exp(np.where(mask, scores - scores.max(-1, keepdims=True), -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhlm,bmhk->blhk", weights, v)
    out = out * real
    back = np.einsum("blhk,bmhk->bhlm", out, v)
    back = weights * (back - (back * weights).sum(-1, keepdims=True)) / np.sqrt(width)
    grad_q = np.einsum("bhlm,bmhk->blhk", back, k)
    grad_k = np.einsum("bhlm,blhk->bmhk", back, q)
    grad_v = np.einsum("bhlm,blhk->bmhk", weights, out)
    return mixed * real, grad_q, grad_k, grad_v


def results(function, q, k, v, out, segments, dtype=jnp.float32):
    real = (segments > 0)[:, :, None, None]

    def both(q, k, v, out):
        mixed, vjp = jax.vjp(lambda *a: function(*a, jnp.asarray(segments)), q, k, v)
        return mixed * real, *vjp(out * real)

    return jax.jit(both)(*(jnp.asarray(x, dtype) for x in (q, k, v, out)))


def assert_equals_reference(function, arrays, tolerance=1e-5, **options):
    got = results(function, *arrays, **options)
    for a, b in zip(got, reference(*arrays), strict=True):
        a = np.asarray(a, np.float64)
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    ("length", "cuts"),
    [
        (512, [[100, 350], [230]]),  # on the tile grid, documents across tiles
        (400, [[], [128]]),  # off it, one document cut at a tile's edge
        (90, [[40], []]),  # less than a tile
    ],
)
def test_splash_equals_a_float64_reference(length, cuts):
    kernel = functools.partial(kernels.splash, config=TILES, interpret=True)
    assert_equals_reference(kernel, rows(length, cuts))


def test_xla_equals_the_same_reference():
    assert_equals_reference(attention.attend_packed, rows(300, [[100, 250], [230]]))


@pytest.mark.parametrize(
    ("length", "cuts"), [(256, [[100, 200], [128]]), (200, [[], [90]])]
)
def test_triton_equals_a_float64_reference(length, cuts):
    kernel = functools.partial(kernels.triton, interpret=True)
    assert_equals_reference(kernel, rows(length, cuts))


def test_splash_in_bfloat16_is_close():
    kernel = functools.partial(kernels.splash, config=TILES, interpret=True)
    assert_equals_reference(kernel, rows(128, [[70], []]), 2e-2, dtype=jnp.bfloat16)


@pytest.mark.parametrize("name", ["cudnn_causal", "cudnn_packed"])
def test_what_cudnn_is_asked_for_equals_the_reference(name, monkeypatch):
    """Without a GPU, XLA answers the very same call."""
    asked = jax.nn.dot_product_attention

    def answer(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return asked(*arrays, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    q, k, v, out, segments = rows(96, [[40], []])
    if name == "cudnn_causal":
        segments = np.ones_like(segments)
    assert_equals_reference(getattr(kernels, name), (q, k, v, out, segments))


@pytest.mark.parametrize(
    ("length", "padded"), [(4096, 4096), (4224, 4608), (100, 128), (513, 1024)]
)
def test_rows_are_padded_to_the_tiles_and_no_further(length, padded):
    got, tiles = kernels._fit(kernels.AttentionConfig(), length)
    assert got == padded
    assert all(padded % size == 0 and size % 128 == 0 for size in tiles.values())


def test_each_platform_has_its_kernel():
    auto = kernels.AttentionConfig()
    choose = functools.partial(kernels.choose, auto, dtype="bfloat16")
    assert choose("cpu") is attention.attend_packed
    assert choose("tpu").func is kernels.splash
    assert choose("gpu") is kernels.cudnn_packed
    assert choose("gpu", is_packed=False) is kernels.cudnn_causal
    assert kernels.choose(auto, "gpu", dtype="float32") is attention.attend_packed


@pytest.mark.parametrize(
    ("kind", "platform", "dtype", "message"),
    [
        ("splash", "cpu", "float32", "runs on tpu, not on cpu; use 'auto'.*'xla'"),
        ("cudnn", "tpu", "bfloat16", "runs on gpu, not on tpu; use 'auto'.*'splash'"),
        ("cudnn", "gpu", "float32", "needs model.dtype='bfloat16'"),
    ],
)
def test_kernel_that_cannot_run_is_refused(kind, platform, dtype, message):
    config = kernels.AttentionConfig(kind)
    with pytest.raises(ValueError, match=message):
        kernels.choose(config, platform, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "slpash"}, "did you mean 'splash'"),
        ({"block_q": 200}, "multiple of 128; the nearest is 256"),
        ({"block_kv": 640}, "multiple of block_kv_compute=512; the nearest is 1024"),
    ],
)
def test_config_refuses_what_no_kernel_could_run(change, message):
    with pytest.raises(ValueError, match=message):
        kernels.AttentionConfig(**change)


@pytest.mark.parametrize(("length", "width"), [(4096, 96), (4224, 64), (300, 128)])
@pytest.mark.parametrize("name", ["cudnn_packed", "cudnn_causal"])
def test_cudnn_is_called_both_ways_on_a_gpu_that_is_not_there(
    name, length, width, monkeypatch
):
    """What JAX would hand to cuDNN: its own checks of shapes and layouts are made."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    kernel = getattr(kernels, name)
    heads = jax.ShapeDtypeStruct((2, length, 4, width), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32)
    loss = lambda *arrays: kernel(*arrays).astype(jnp.float32).sum()
    step = jax.jit(jax.grad(loss, (0, 1, 2))).trace(heads, heads, heads, ids)
    text = step.lower(lowering_platforms=("cuda",)).as_text()
    softmax = {"cudnn_packed": "ScaleBiasSoftmax", "cudnn_causal": "Softmax"}[name]
    assert f"@__cudnn$fmha{softmax}(" in text
    assert f"@__cudnn$fmha{softmax}Backward(" in text
    scores = f"x{length}x{length}x"
    assert f"4{scores}" not in text  # of four heads: the mask has one


@pytest.mark.tpu
@pytest.mark.parametrize(("length", "width"), [(4096, 64), (4224, 96), (200, 128)])
def test_splash_compiles_for_a_tpu_without_one(length, width, monkeypatch):
    pytest.importorskip("libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # no metadata server to ask
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec

    pod = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = topologies.make_mesh(pod, (4,), ("data",))
    place = NamedSharding(mesh, PartitionSpec("data"))
    heads = jax.ShapeDtypeStruct((4, length, 2, width), jnp.bfloat16, sharding=place)
    ids = jax.ShapeDtypeStruct((4, length), jnp.int32, sharding=place)
    kernel = jax.shard_map(
        functools.partial(kernels.splash, config=kernels.AttentionConfig()),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )
    loss = lambda *arrays: kernel(*arrays).astype(jnp.float32).sum()
    step = jax.jit(jax.grad(loss, (0, 1, 2)))
    text = step.lower(heads, heads, heads, ids).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2  # one each way
