"""The training step's attention beside other public ones, on the device at hand.

Rows of packed documents and rows of one document, forward and backward: every kernel of
`models/kernels.py` that the platform has, beside `jax.nn.dot_product_attention` with a
mask (XLA), and on a CPU PyTorch's fused attention with the same mask, if it is installed.
Results and gradients are compared with float64's first, on tokens that are not padding;
the run stops if they differ by more than 1e-5 of the largest (2e-2 in bfloat16). Sides
take turns.

Usage:
    python benchmarks/attention.py --rows=4 --length=256 --heads=4 --width=32
    python benchmarks/attention.py --rows=4 --length=4096 --heads=16 --width=96 \
        --dtype=bfloat16
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from cm3leon_jax.models import attention, kernels

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def main():
    options = arguments()
    results = {}
    for rows in ("packed", "causal"):
        arrays = make(options, is_packed=rows == "packed")
        sides = jax_sides(options, rows == "packed")
        if jax.default_backend() == "cpu" and importlib.util.find_spec("torch"):
            sides["torch_sdpa"] = torch_side(options)
        results[rows] = measure(sides, arrays, options)
    about = {
        "device": jax.devices()[0].device_kind,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("jax", "jaxlib", "torch")
            if importlib.util.find_spec(name)
        },
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(vars(options) | about | results, indent=2))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=32, help="of one head")
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3, help="of each side a round")
    return parser.parse_args()


def make(options, is_packed):
    """Queries, keys, values and the output's gradient in float32, and segments."""
    rng = np.random.default_rng(0)
    shape = (options.rows, options.length, options.heads, options.width)
    arrays = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
    segments = np.ones(shape[:2], np.int32)
    if is_packed:  # three to six documents, and padding
        for row in segments:
            cuts = np.sort(rng.choice(options.length - 8, rng.integers(2, 6), False))
            row[:] = 1 + np.searchsorted(cuts, np.arange(options.length), "right")
            row[-8:] = 0
    arrays[3][segments == 0] = 0  # padding carries no loss
    return *arrays, segments


def jax_sides(options, is_packed):
    """Functions of (q, k, v, grad, segments) that return output and gradients."""
    found = {}
    for kind in kernels.KINDS[1:]:
        config = kernels.AttentionConfig(kind=kind)
        try:
            attend = kernels.choose(
                config,
                jax.default_backend(),
                dtype=options.dtype,
                is_packed=is_packed,
            )
        except ValueError:  # not on this platform, or not in this dtype
            continue
        found[kind] = both_passes(attend, options.dtype)
    found["dot_product_attention"] = both_passes(masked, options.dtype)
    return found


def masked(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL):
    """What a reader would write first."""
    mask = attention.packed_causal_mask(segment_ids_BL)
    return jax.nn.dot_product_attention(
        q_BLHK, k_BLHK, v_BLHK, mask=mask, implementation="xla"
    )


def both_passes(attend, dtype):
    """The jitted forward and backward pass."""

    def run(q, k, v, grad, segments):
        q, k, v, grad = (x.astype(dtype) for x in (q, k, v, grad))
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, segments), q, k, v)
        return out, *pull(grad)

    return jax.jit(run)


def torch_side(options):
    """PyTorch's fused attention with a mask."""
    import torch

    dtype = getattr(torch, options.dtype)

    def run(q, k, v, grad, segments):
        q, k, v, grad = (
            torch.from_numpy(np.array(x)).to(dtype).transpose(1, 2)
            for x in (q, k, v, grad)
        )
        segments = torch.from_numpy(np.array(segments))
        mask = (segments[:, :, None] == segments[:, None]).tril()[:, None]
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, attn_mask=mask)
        out.backward(grad)
        found = (out.detach(), *(x.grad for x in leaves))
        return [x.transpose(1, 2).float().numpy() for x in found]

    return run


def reference(q, k, v, grad, segments):
    """Output and gradients by definition, in float64, a head at a time."""
    found = [np.zeros(q.shape) for _ in range(4)]
    scale = q.shape[-1] ** -0.5
    length = q.shape[1]
    for row in range(q.shape[0]):
        mask = (segments[row][:, None] == segments[row]) & np.tri(length, dtype=bool)
        for head in range(q.shape[2]):
            q1, k1, v1, grad1 = (
                x[row, :, head].astype(np.float64) for x in (q, k, v, grad)
            )
            scores = np.where(mask, scale * q1 @ k1.T, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            back = grad1 @ v1.T
            back = weights * (back - (back * weights).sum(-1, keepdims=True))
            parts = (
                weights @ v1,
                scale * back @ k1,
                scale * back.T @ q1,
                weights.T @ grad1,
            )
            for whole, part in zip(found, parts, strict=True):
                whole[row, :, head] = part
    return found


def check(name, found, expected, segments, tolerance):
    """Stops the run if a result or a gradient differs."""
    is_real = (segments > 0)[:, :, None, None]
    for one, right in zip(found, expected, strict=True):
        one = np.asarray(one, np.float64)
        difference = np.abs((one - right) * is_real).max() / np.abs(right).max()
        if not difference <= tolerance:
            sys.exit(f"{name}: differs by {difference:.1e}, more than {tolerance}")


def measure(sides, arrays, options):
    """Compares all sides, then times them in turns."""
    expected = reference(*arrays)
    placed = [jnp.asarray(x) for x in arrays]
    for name, run in sides.items():
        check(name, run(*placed), expected, arrays[-1], TOLERANCE[options.dtype])
    seconds = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, run in sides.items():
            for _ in range(options.calls):
                start = time.perf_counter()
                jax.block_until_ready(run(*placed))
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "milliseconds_best": 1e3 * min(times),
            "milliseconds_median": 1e3 * float(np.median(times)),
        }
        for name, times in seconds.items()
    }


if __name__ == "__main__":
    main()
