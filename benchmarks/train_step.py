"""The training step beside `transformers` OPT in PyTorch, on the same packed rows.

Each side runs in a process of its own; they take turns, a few steps at a time, so that
both meet the same machine. First both compute the logits of one batch from the same
weights, and the run stops if they differ by more than 1e-4. Memory is counted from
there on: the compilation of the step and the training, not the comparison. Linux.

On a GPU (`--device=gpu`) both compute in bfloat16 from float32 weights, ours with the
kernel of `--attention`, and utilisation is reported too; logits of one row are compared.

Needs torch and transformers beside this package's requirements, there for CUDA.

Usage:
    python benchmarks/train_step.py --shape=quick --out=train_step.json
    python benchmarks/train_step.py --shape=d256
    python benchmarks/train_step.py --products=bfloat16    # as the quickstart trains
    python benchmarks/train_step.py --device=gpu --shape=760m --rounds=3 --steps=4
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np

# Layers, width, heads, vocabulary, rows, tokens a row.
SHAPES = {
    "quick": (4, 128, 4, 1_100, 8, 256),
    "d256": (6, 256, 8, 16_384, 4, 512),
    "350m": (24, 1_024, 16, 65_536, 8, 4_096),
    "760m": (24, 1_536, 16, 65_536, 8, 4_096),
    "7b_layers": (4, 4_096, 32, 65_536, 4, 4_096),
}
LOGIT_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
LEARNING_RATE = 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="quick")
    parser.add_argument(
        "--products",
        choices=LOGIT_TOLERANCE,
        default="float32",
        help="what factors of products are rounded to; autocast in PyTorch",
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--attention", default="auto", help="ours on a GPU")
    parser.add_argument("--remat", default="dots", help="ours on a GPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="of each side a round")
    parser.add_argument("--sides", nargs="+", default=["ours", "opt", "opt_compiled"])
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()
    if options.device == "gpu":
        options.products = "bfloat16"

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "weights.npz")
        workers = {}
        for side in options.sides:  # ours first: it writes the weights
            here, there = context.Pipe()
            arguments = (side, options, weights, there)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            workers[side] = (here, process)
            first = here.recv()
            if isinstance(first, str):
                sys.exit(f"{side}: {first}")
            check(side, first, weights, LOGIT_TOLERANCE[options.products])
        seconds = {side: [] for side in options.sides}
        for _ in range(options.rounds):
            for side, (pipe, _) in workers.items():
                pipe.send(options.steps)
                seconds[side] += pipe.recv()
        peaks = {}
        for side, (pipe, process) in workers.items():
            pipe.send(0)
            peaks[side] = pipe.recv()
            process.join()
    report(options, seconds, peaks)


def report(options, seconds, peaks):
    """Prints a table and writes JSON."""
    *_, rows, length = SHAPES[options.shape]
    tokens = rows * length
    result = vars(options) | {"versions": versions(), "sides": {}}
    for side, times in seconds.items():
        result["sides"][side] = {
            "tokens_per_second_best": tokens / min(times),
            "tokens_per_second_median": tokens / float(np.median(times)),
            **peaks[side],
        }
        if "peak_tflops" in peaks[side]:
            operations = operations_per_token(options.shape) * tokens / min(times)
            utilisation = operations / (1e12 * peaks[side]["peak_tflops"])
            result["sides"][side]["utilisation_best"] = utilisation
    others = [s for name, s in result["sides"].items() if name != "ours"]
    if others and "ours" in result["sides"]:
        for key in ("tokens_per_second_best", "tokens_per_second_median"):
            best = max(side[key] for side in others)
            result[f"ratio_{key}"] = result["sides"]["ours"][key] / best
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")


def check(side, logits, weights, tolerance):
    """Stops the run if a side's logits are not those of the first side."""
    path = f"{weights}.logits.npy"
    if not os.path.exists(path):
        np.save(path, logits)
    difference = float(np.abs(np.load(path) - logits).max())
    print(f"{side}: logits differ by {difference:.1e}", file=sys.stderr)
    if difference > tolerance:
        sys.exit(f"{side}: logits differ by more than {tolerance}")


def versions():
    names = ("jax", "jaxlib", "flax", "torch", "transformers")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"python": platform.python_version(), "cores": os.cpu_count()}


def work(side, options, weights, pipe):
    """One side's process: logits first, then steps on demand, its memory at the end."""
    makers = {"ours": ours, "opt": opt, "opt_compiled": opt_compiled}
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:  # the sides share the GPU's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        logits, step, memory = makers[side](options, weights)
        pipe.send(logits)
        del logits
        forget_peak()
        for _ in range(3):
            step()
    except (ImportError, RuntimeError, ValueError) as error:
        pipe.send(repr(error))
        return
    while steps := pipe.recv():
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        pipe.send(times)
    pipe.send(memory())


def forget_peak():
    """Gives back what comparing and compiling left, and counts the peak from here on."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_of_process():
    """Gigabytes of this process at most, since `forget_peak`."""
    status = pathlib.Path("/proc/self/status").read_text()
    return {"peak_memory_gb": int(status.split("VmHWM:")[1].split()[0]) / 1e6}


def peak_of_jax():
    """Gigabytes of the GPU at most, and what its products could reach."""
    import jax

    from cm3leon_jax import devices

    found = jax.devices()[0]
    known = devices.of_kind(found.device_kind)
    memory = {"peak_memory_gb": found.memory_stats()["peak_bytes_in_use"] / 1e9}
    return memory | ({"peak_tflops": known.peak_flops / 1e12} if known else {})


def peak_of_torch():
    """Gigabytes of the GPU at most."""
    import torch

    return {"peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9}


def operations_per_token(shape):
    """Model FLOPs of a trained token, for utilisation."""
    from cm3leon_jax.train import flops

    return flops.per_token(model_config(shape), SHAPES[shape][-1]).training


def model_config(shape, **changes):
    """This package's model of a shape."""
    from cm3leon_jax.models import transformer

    layers, width, heads, vocab_size, _, length = SHAPES[shape]
    return transformer.TransformerConfig(
        num_layers=layers,
        num_heads=heads,
        model_dim=width,
        head_dim=width // heads,
        mlp_dim=4 * width,
        vocab_size=vocab_size,
        max_length=length,
        init_std=0.04,
        pos_init_std=0.02,
        **changes,
    )


def compared(options):
    """Rows whose logits are compared: of the large shapes one."""
    return slice(None) if options.device == "cpu" else slice(1)


def rows(shape):
    """A packed batch: random ids, three to six documents a row."""
    from cm3leon_jax.documents import packing

    *_, vocab_size, num_rows, length = SHAPES[shape]
    rng = np.random.default_rng(0)
    packed = []
    for _ in range(num_rows):
        cuts = np.sort(rng.choice(np.arange(20, length - 20), rng.integers(2, 6)))
        sizes = np.diff(np.concatenate([[0], cuts, [length]])) + 1
        packed.append(
            [
                packing.Piece(
                    rng.integers(0, vocab_size, size).astype(np.int32),
                    np.ones(size, np.float32),
                )
                for size in sizes
            ]
        )
    return packing.lay_out(packed, length)


def ours(options, weights):
    """This package's step: on a CPU one device a core, as the small configs run it."""
    import jax

    from cm3leon_jax import cpu, sharding
    from cm3leon_jax import vocab as vocab_lib
    from cm3leon_jax.models import attention, kernels
    from cm3leon_jax.train import checkpoint, optimizer, program, step

    shape, vocab_size = options.shape, SHAPES[options.shape][3]
    if options.device == "cpu":
        cpu.use_devices(os.cpu_count())
        config = model_config(shape, scan_layers=False, product_dtype=options.products)
        attend, memory = attention.attend_packed, peak_of_process
        how = step.StepConfig()
    else:
        config = model_config(shape, dtype="bfloat16", remat=options.remat)
        kind = kernels.AttentionConfig(kind=options.attention)
        attend = kernels.choose(kind, "gpu", dtype="bfloat16")
        memory, how = peak_of_jax, step.StepConfig(chunk_mib=512)
    vocab = vocab_lib.Vocab(
        text_size=vocab_size - 128, image_size=64, control_size=64, num_sentinels=32
    )
    update = optimizer.make(
        optimizer.OptimizerConfig(LEARNING_RATE, warmup_steps=0, num_steps=10**6),
        program.model_shapes(config),
    )
    mesh = sharding.make_mesh(sharding.MeshConfig(data=-1, fsdp=1))
    made = program.make(config, update, how, vocab, mesh, attention=attend)
    now = made.init(jax.random.key(0))
    # The residual branches begin at 0: drawn here, so that the logits need them.
    rng = np.random.default_rng(1)
    drawn = {
        name: 0.04 * rng.normal(size=leaf.shape).astype(np.float32)
        for name, leaf in checkpoint.flatten(now.model).items()
    }
    np.savez(weights, **drawn)
    now = now._replace(model=checkpoint.unflatten(drawn, now.model))
    batch, few = rows(shape), compared(options)
    forward = jax.jit(lambda model, *args: model.head(model(*args)))
    logits = forward(
        now.model,
        batch.tokens_BL[few],
        batch.positions_BL[few],
        batch.segment_ids_BL[few],
    )

    def run():
        nonlocal now
        now, metrics = made.step(now, sharding.put_batch(batch, mesh))
        float(metrics["loss"])

    return np.asarray(logits), run, memory


def opt(options, weights, compiled=False):
    """OPT with fused attention (SDPA), AdamW and clipping, as its users train it."""
    import torch
    import transformers

    layers, width, heads, vocab_size, _, length = SHAPES[options.shape]
    device = "cuda" if options.device == "gpu" else "cpu"
    model = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            word_embed_proj_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            ffn_dim=4 * width,
            max_position_embeddings=length,
            enable_bias=False,
            layer_norm_elementwise_affine=False,
            dropout=0.0,
            attn_implementation="sdpa",
        )
    )
    with torch.no_grad():
        for name, value in _opt_weights(np.load(weights), layers, width).items():
            model.get_parameter(name).copy_(torch.tensor(value))
    model.to(device)
    update = torch.optim.AdamW(
        model.parameters(),
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    batch, few = rows(options.shape), compared(options)
    tokens, targets, positions = (
        torch.tensor(x, dtype=torch.long, device=device)
        for x in (batch.tokens_BL, batch.targets_BL, batch.positions_BL)
    )
    segments = batch.segment_ids_BL
    mask = (segments[:, :, None] == segments[:, None]) & np.tril(
        np.ones((length, length), bool)
    )
    bias = torch.where(torch.tensor(mask), 0.0, torch.finfo(torch.float32).min)[:, None]
    bias = bias.to(device)
    forward = torch.compile(model) if compiled else model
    rounds = options.products == "bfloat16"

    def logits(few=slice(None)):
        with torch.autocast(device, torch.bfloat16, enabled=rounds):
            found = forward(
                tokens[few], attention_mask=bias[few], position_ids=positions[few]
            ).logits
        return found.float()

    def run():
        loss = torch.nn.functional.cross_entropy(
            logits().view(-1, vocab_size), targets.view(-1)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
        update.zero_grad(set_to_none=True)
        return loss.item()

    with torch.no_grad():
        first = logits(few).cpu().numpy()
    return first, run, peak_of_torch if device == "cuda" else peak_of_process


def opt_compiled(options, weights):
    return opt(options, weights, compiled=True)


def _opt_weights(ours, layers, width):
    """OPT's names and layouts; its positions have two unused rows in front."""
    names = {
        "model.decoder.embed_tokens.weight": ours["token_embedding_VD"],
        "model.decoder.embed_positions.weight": np.pad(
            ours["position_embedding_LD"], ((2, 0), (0, 0))
        ),
    }
    for i in range(layers):
        layer = f"model.decoder.layers.{i}"
        for j, name in enumerate("qkv"):
            weight = ours["blocks/qkv_D3HK"][i][:, j].reshape(width, width).T
            names[f"{layer}.self_attn.{name}_proj.weight"] = weight
        out = ours["blocks/out_HKD"][i].reshape(width, width).T
        names[f"{layer}.self_attn.out_proj.weight"] = out
        names[f"{layer}.fc1.weight"] = ours["blocks/up_DF"][i].T
        names[f"{layer}.fc2.weight"] = ours["blocks/down_FD"][i].T
    return {name: np.array(value) for name, value in names.items()}


if __name__ == "__main__":
    main()
