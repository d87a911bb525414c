"""Laws of the step: pieces and devices change nothing, it compiles once."""

import dataclasses
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax import sharding
from cm3leon_jax import vocab as vocab_lib
from cm3leon_jax.documents import packing
from cm3leon_jax.models import kernels, transformer
from cm3leon_jax.train import checkpoint, guard, optimizer, program, state, step
from configs import pretrain

VOCAB = vocab_lib.Vocab(
    text_size=32, image_size=16, control_size=16, num_sentinels=8, codes_per_image=4
)
MODEL = transformer.TransformerConfig(
    num_layers=2,
    num_heads=8,
    model_dim=32,
    head_dim=4,
    mlp_dim=64,
    vocab_size=64,
    max_length=16,
    init_std=0.05,
)
OPTIMIZER = optimizer.OptimizerConfig(peak_lr=2e-3, warmup_steps=1, num_steps=100)
MESHES = [  # data, fsdp, tensor, sequence
    sizes
    for sizes in itertools.product((1, 2, 4, 8), repeat=4)
    if np.prod(sizes) in (1, 2, 4, 8)
]
FEW_MESHES = [(2, 1, 1, 1), (1, 4, 1, 1), (1, 1, 4, 2), (2, 2, 2, 1), (1, 2, 2, 2)]

START_KEY = jax.random.key(0)
TENSOR = re.compile(r"tensor<((?:\d+x)*\d+)x[a-z]+\d+>")


def batch(seed=0, rows=8, length=16):
    rng = np.random.default_rng(seed)
    draw = lambda: packing.Piece(
        rng.integers(0, 64, size := rng.integers(3, 13)).astype(np.int32),
        (rng.random(size) < 0.7).astype(np.float32),
    )
    packed = packing.pack([draw() for _ in range(3 * rows)], length)
    return packing.Batch(*(x[:rows] for x in packed))


@functools.cache
def update():
    shapes = jax.eval_shape(lambda: transformer.Transformer(MODEL, rngs=_rngs()))
    return optimizer.make(OPTIMIZER, shapes)


def _rngs():
    from flax import nnx

    return nnx.Rngs(0)


@functools.cache
def start():
    return jax.jit(lambda key: state.init(MODEL, update(), key))(START_KEY)


def run(steps=3, mesh=None, **options):
    config = step.StepConfig(**options)
    one = jax.jit(step.make(config, update(), VOCAB, mesh=mesh))
    now, losses = start(), []
    for i in range(steps):
        rows = batch(i)
        if mesh is not None:
            if i == 0:
                places = sharding.shardings(now, mesh, transformer.LOGICAL_AXES)
                now = jax.device_put(now, places)
            rows = sharding.put_batch(rows, mesh)
        now, metrics = one(now, rows)
        losses.append(float(metrics["loss"]))
    assert one._cache_size() <= 2
    return now, losses


@functools.cache
def plain():
    return run()


def assert_same(got, expected):
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-5)
    a, b = (checkpoint.flatten(x[0].model) for x in (got, expected))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("num_microbatches", [2, 8])
def test_microbatches_with_ragged_weights_equal_one_batch(num_microbatches):
    assert_same(run(num_microbatches=num_microbatches), plain())


def test_chunks_of_the_loss_change_nothing():
    assert_same(run(chunk_mib=0.005), plain())


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, marks=[] if sizes in FEW_MESHES else pytest.mark.slow)
        for sizes in MESHES
    ],
)
def test_devices_in_every_axis_change_nothing(sizes):
    count = int(np.prod(sizes))
    mesh = sharding.make_mesh(sharding.MeshConfig(*sizes), jax.devices()[:count])
    assert_same(run(mesh=mesh), plain())


def test_loss_falls_on_one_batch():
    one = jax.jit(step.make(step.StepConfig(), update(), VOCAB))
    now, rows = start(), batch()
    losses = []
    for _ in range(30):
        now, metrics = one(now, rows)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_batch_without_weight_keeps_everything_finite():
    rows = batch()._replace(weights_BL=np.zeros((8, 16), np.float32))
    one = jax.jit(step.make(step.StepConfig(), update(), VOCAB))
    now, metrics = one(start(), rows)
    assert metrics["loss"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(now))


def test_evaluation_is_the_loss_that_the_step_reports():
    evaluate = jax.jit(step.evaluation(step.StepConfig(), VOCAB))
    found = step.means(evaluate(start().model, batch(0)))
    np.testing.assert_allclose(found["loss"], plain()[1][0], rtol=1e-6)
    assert found["perplexity_text"] > 1 and found["perplexity_image"] > 1


def test_whole_step_is_lowered_for_a_gpu_that_is_not_there(monkeypatch):
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    rows, length, pieces = 8, 16, 4
    config = dataclasses.replace(
        MODEL, num_heads=4, head_dim=8, dtype="bfloat16", remat="dots", vocab_size=104
    )
    attend = kernels.choose(kernels.AttentionConfig(), "gpu", dtype="bfloat16")
    how = step.StepConfig(chunk_mib=4 * rows * length * 104 / pieces / 2**20)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    made = program.make(config, update(), how, VOCAB, mesh, attention=attend)
    traced = made.step.trace(made.shapes, batch())
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "@__cudnn$fmhaScaleBiasSoftmax(" in text
    assert "@__cudnn$fmhaScaleBiasSoftmaxBackward(" in text
    sizes = [math.prod(map(int, dims.split("x"))) for dims in TENSOR.findall(text)]
    assert rows * length * 104 // pieces in sizes
    assert rows * length * 104 not in sizes


def test_step_makes_no_array_of_all_logits():
    """Looked for in the whole program: parameters, activations, loops, both passes."""
    rows, length, vocab_size = 8, 16, 104
    config = dataclasses.replace(MODEL, vocab_size=vocab_size)
    now = jax.eval_shape(lambda key: state.init(config, update(), key), START_KEY)
    pieces = step.StepConfig(chunk_mib=4 * rows * 2 * vocab_size / 2**20)  # two tokens
    text = jax.jit(step.make(pieces, update(), VOCAB)).lower(now, batch()).as_text()
    sizes = [math.prod(map(int, dims.split("x"))) for dims in TENSOR.findall(text)]
    assert rows * 2 * vocab_size in sizes  # a piece
    assert rows * length * vocab_size not in sizes


def test_losses_by_modality_add_up_to_the_loss():
    rows = batch()
    keep = VOCAB.is_text(rows.targets_BL) | VOCAB.is_image(rows.targets_BL)
    rows = rows._replace(weights_BL=rows.weights_BL * keep)
    sums = jax.jit(step.evaluation(step.StepConfig(), VOCAB))(start().model, rows)
    np.testing.assert_allclose(
        sums["nll"], sums["nll_text"] + sums["nll_image"], rtol=1e-6
    )


def test_microbatches_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_microbatches=3 must divide the 8 rows"):
        run(num_microbatches=3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokens_BL", 64, r"tokens_BL is 64 in row 2 at 3 and must be in \[0, 63\]"),
        ("targets_BL", -1, "targets_BL is -1 .*vocabulary"),
        ("positions_BL", 16, "positions_BL is 16 .* longer model.max_length"),
    ],
)
def test_ids_and_positions_out_of_range_are_refused(name, value, message):
    rows = batch()
    step.check(rows, MODEL.vocab_size, MODEL.max_length)
    getattr(rows, name)[2, 3] = value
    with pytest.raises(ValueError, match=message):
        step.check(rows, MODEL.vocab_size, MODEL.max_length)


def test_saved_and_restored_run_equals_one_that_never_stopped(tmp_path):
    one = jax.jit(step.make(step.StepConfig(), update(), VOCAB))
    now, _ = one(start(), batch(0))
    saver = checkpoint.Checkpointer(tmp_path)
    saver.save(1, now)
    saver.wait()
    restored = saver.restore(start()).state
    for _ in range(2):
        now, restored = one(now, batch(1))[0], one(restored, batch(1))[0]
    for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(restored), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("size", "loss", "norm"),
    [
        ("350m", 4.2037902, 1.8402700),
        ("760m", 4.2124720, 3.2091377),
        ("7b", 4.9657936, 14.5234499),
    ],
)
def test_golden_first_step(size, loss, norm):
    """Changes here mean that training changed: say so in the changelog."""
    config = pretrain.get_config(f"{size},debug")
    fields = config.model.to_dict() | {"vocab_size": 64, "product_dtype": None}
    model = transformer.TransformerConfig(**fields)
    shapes = jax.eval_shape(lambda: transformer.Transformer(model, rngs=_rngs()))
    change = optimizer.OptimizerConfig(
        num_steps=config.loop.num_steps, **config.optimizer.to_dict()
    )
    change = optimizer.make(change, shapes)
    now = jax.jit(lambda key: state.init(model, change, key))(START_KEY)
    one = jax.jit(step.make(step.StepConfig(**config.step.to_dict()), change, VOCAB))
    _, metrics = one(now, batch(0))
    golden = {"loss": loss, "gradient_norm": norm}
    got = {name: float(metrics[name]) for name in golden}
    assert got == pytest.approx(golden, rel=1e-5)


def test_bfloat16_step_is_close_to_float32():
    config = dataclasses.replace(MODEL, dtype="bfloat16")
    model = start().model
    half = transformer.Transformer(config, rngs=_rngs())
    half = jax.tree.unflatten(jax.tree.structure(half), jax.tree.leaves(model))
    evaluate = jax.jit(step.evaluation(step.StepConfig(), VOCAB))
    got = step.means(evaluate(half, batch(0)))["loss"]
    assert got == pytest.approx(plain()[1][0], rel=2e-2)
    assert jax.tree.leaves(half)[0].dtype == jnp.float32


def test_products_in_bfloat16_train_as_in_float32():
    config = dataclasses.replace(MODEL, product_dtype="bfloat16")
    one = jax.jit(step.make(step.StepConfig(), update(), VOCAB))
    model = jax.eval_shape(lambda: transformer.Transformer(config, rngs=_rngs()))
    as_rounded = lambda x: jax.tree.unflatten(
        jax.tree.structure(model), jax.tree.leaves(x)
    )
    now = start()._replace(model=as_rounded(start().model))
    moments = jax.tree.map(
        lambda x: as_rounded(x) if isinstance(x, transformer.Transformer) else x,
        now.optimizer,
        is_leaf=lambda x: isinstance(x, transformer.Transformer),
    )
    now, losses = now._replace(optimizer=moments), []
    for i in range(3):
        now, metrics = one(now, batch(i))
        losses.append(float(metrics["loss"]))
    assert losses == pytest.approx(plain()[1], rel=1e-2)


@pytest.mark.slow
def test_two_hundred_steps_in_bfloat16_reach_the_loss_of_float32():
    full, half = map(losses_of_200_steps, ("float32", "bfloat16"))
    assert np.isfinite(half).all() and full[-20:].mean() < 0.9 * full[0]
    np.testing.assert_allclose(half[-20:].mean(), full[-20:].mean(), rtol=0.01)


def losses_of_200_steps(dtype):
    config = dataclasses.replace(MODEL, dtype=dtype)
    shapes = jax.eval_shape(lambda: transformer.Transformer(config, rngs=_rngs()))
    change = optimizer.make(dataclasses.replace(OPTIMIZER, num_steps=200), shapes)
    one = jax.jit(step.make(step.StepConfig(), change, VOCAB), donate_argnums=0)
    now = jax.jit(lambda key: state.init(config, change, key))(START_KEY)
    losses = []
    for number in range(200):
        now, values = one(now, batch(number % 8))
        losses.append(float(values["loss"]))
    return np.asarray(losses)


def test_losses_by_position_are_those_of_the_tokens_there(monkeypatch):
    monkeypatch.setattr(step, "POSITION_BIN", 6)  # three bins of sixteen positions
    rows = batch()
    sums = jax.jit(step.evaluation(step.StepConfig(), VOCAB))(start().model, rows)
    for kind in ("", "_text", "_image"):
        for name in (f"nll{kind}", f"weight{kind}"):
            parts = sum(float(sums[f"{name}_at_{index}k"]) for index in range(3))
            np.testing.assert_allclose(parts, float(sums[name]), rtol=1e-5)
    # Only what stands at positions 6 to 11 is left: the middle bin is the whole.
    middle = (rows.positions_BL // 6 == 1).astype(np.float32)
    rows = rows._replace(weights_BL=rows.weights_BL * middle)
    alone = jax.jit(step.evaluation(step.StepConfig(), VOCAB))(start().model, rows)
    np.testing.assert_allclose(alone["nll"], sums["nll_at_1k"], rtol=1e-5)
    found = step.means(alone)
    assert found["loss_at_1k"] == found["loss"] and "loss_at_0k" not in found


def test_short_rows_have_no_losses_by_position():
    one = jax.jit(step.make(step.StepConfig(), update(), VOCAB))
    _, found = one(start(), batch())
    assert not [name for name in found if "_at_" in name]


def test_batch_that_is_not_finite_changes_no_bit_of_a_guarded_state():
    held = guard.wrap(update(), guard.GuardConfig(action="skip"))
    now = state.init(MODEL, held, jax.random.key(0))
    one = jax.jit(step.make(step.StepConfig(), held, VOCAB))
    good, bad = batch(), batch(1)
    bad.weights_BL[0, 0] = np.nan
    now, _ = one(now, good)
    after, values = one(now, bad)
    same = lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert all(jax.tree.leaves(jax.tree.map(same, after.model, now.model)))
    inner = (after.optimizer.inner, now.optimizer.inner)
    assert all(jax.tree.leaves(jax.tree.map(same, *inner)))
    names = list(checkpoint.flatten(now.model))
    with pytest.raises(FloatingPointError, match=f"gradient of '{names[0]}'"):
        guard.Inspector(names)(2, values | {guard.HALTED: 1})


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    now = start()
    table = now.model.token_embedding_VD[...].at[3, 4].set(jnp.nan)
    broken = jax.tree.map(lambda x: x, now)
    broken.model.token_embedding_VD[...] = table
    context = {"model": dataclasses.asdict(MODEL)}
    saver = checkpoint.Checkpointer(tmp_path / state.CHECKPOINTS, context=context)
    saver.save(1, broken)
    saver.close()
    with pytest.raises(ValueError, match="token_embedding_VD.* not finite"):
        state.load_model(str(tmp_path))
