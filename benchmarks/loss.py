"""The chunked head and loss beside one that makes all logits, forward and backward.

Both compute loss and gradients of the same features and table, on the device at hand;
the run stops if they differ by more than 1e-4 of the largest gradient (2e-2 in
bfloat16). They take turns, a few calls at a time.

Usage:
    python benchmarks/loss.py --chunk_mib=64
    python benchmarks/loss.py --rows=16 --length=4096 --width=1536 --vocab=65536 \
        --dtype=bfloat16 --chunk_mib=512
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cm3leon_jax.train import losses


def main():
    options = arguments()
    rng = np.random.default_rng(0)
    shape = (options.rows, options.length)
    x = jnp.asarray(rng.normal(size=(*shape, options.width)), options.dtype)
    table = 0.02 * rng.normal(size=(options.vocab, options.width))
    table = jnp.asarray(table, jnp.float32)
    targets = jnp.asarray(rng.integers(0, options.vocab, shape), jnp.int32)
    weights = jnp.ones(shape, jnp.float32)
    num_chunks = losses.chunks_for(
        int(options.chunk_mib * 2**20),
        num_rows=options.rows,
        length=options.length,
        vocab_size=options.vocab,
    )
    sides = {
        "chunked": functools.partial(chunked, num_chunks=num_chunks),
        "full": full,
    }
    programs = {}
    for name, loss in sides.items():
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        programs[name] = step.lower(x, table, targets, weights).compile()
    check(*(run(x, table, targets, weights) for run in programs.values()), options)
    seconds = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, run in programs.items():
            for _ in range(options.calls):
                start = time.perf_counter()
                jax.block_until_ready(run(x, table, targets, weights))
                seconds[name].append(time.perf_counter() - start)
    report(options, num_chunks, programs, seconds)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--chunk_mib", type=float, default=64.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3, help="of each side a round")
    return parser.parse_args()


def chunked(x_BLD, table_VD, targets_BL, weights_BL, num_chunks):
    return losses.next_token_loss(
        x_BLD, table_VD, targets_BL, weights_BL, num_chunks=num_chunks
    )[0]


def full(x_BLD, table_VD, targets_BL, weights_BL):
    """What a reader would write first."""
    logits_BLV = jnp.einsum(
        "bld,vd->blv",
        x_BLD,
        table_VD.astype(x_BLD.dtype),
        preferred_element_type=jnp.float32,
    )
    nll_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, targets_BL)
    return (weights_BL * nll_BL).sum()


def check(ours, theirs, options):
    """Stops the run if losses or gradients differ."""
    tolerance = 1e-4 if options.dtype == "float32" else 2e-2
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        difference = np.abs(a - b).max() / np.abs(b).max()
        if difference > tolerance:
            sys.exit(f"results differ by {difference:.1e}, more than {tolerance}")


def report(options, num_chunks, programs, seconds):
    """Prints both sides as JSON; a ratio above 1 means that chunks are faster."""
    sides = {}
    for name, times in seconds.items():
        memory = programs[name].memory_analysis()
        sides[name] = {
            "milliseconds_best": 1e3 * min(times),
            "milliseconds_median": 1e3 * float(np.median(times)),
            "temporary_mb": memory.temp_size_in_bytes / 1e6,
        }
    ratio = lambda key: sides["full"][key] / sides["chunked"][key]
    result = vars(options) | {
        "num_chunks": num_chunks,
        "sides": sides,
        "ratio_best": ratio("milliseconds_best"),
        "ratio_median": ratio("milliseconds_median"),
        "device": jax.devices()[0].device_kind,
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "jaxlib")
        },
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
