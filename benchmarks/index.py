"""Exact search beside FAISS `IndexFlatIP`, on the same vectors, in turns.

The bank is random unit vectors: the hardest case for any bound, since scores lie close.
First both sides answer the same queries, and the run stops if ours miss one of the best
by FAISS (recall below 1.0, but for scores that are equal to 1e-5).

Needs faiss-cpu beside this package's requirements; `--sides ours` runs without, against
a full sort of a few queries.

Usage:
    python benchmarks/index.py --out=index.json
    python benchmarks/index.py --rows=131072 --rounds=3
    python benchmarks/index.py --sides ours --dtype=bfloat16 --min_recall=0.99
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time

import jax
import numpy as np

from cm3leon_jax.retrieval import faiss_index, index

_CHECKED = 64  # queries that are sorted in full where FAISS is not there


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1_024, help="a batch")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--chunk_size", type=int, default=8_192)
    parser.add_argument("--dtype", choices=index.DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--min_recall", type=float, default=1.0)
    parser.add_argument("--sides", nargs="+", default=["ours", "faiss"])
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()

    bank_ME, queries_NE = vectors(options.rows, options.width, options.queries)
    config = index.IndexConfig(chunk_size=options.chunk_size, dtype=options.dtype)
    mesh = None
    if jax.device_count() > 1:
        mesh = jax.make_mesh((jax.device_count(),), ("bank",))
    sides = {"ours": index.Index(bank_ME, config, mesh=mesh)}
    if "faiss" in options.sides:
        sides["faiss"] = faiss_index.FaissIndex(bank_ME)
    recall = check(sides, bank_ME, queries_NE, options)
    seconds = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, searched in sides.items():
            start = time.perf_counter()
            searched.search(queries_NE, options.k)
            seconds[side].append(time.perf_counter() - start)
    report(options, seconds, recall)


def vectors(num_rows, width, num_queries):
    """Random unit vectors, float32."""
    rng = np.random.default_rng(0)
    made = []
    for count in (num_rows, num_queries):
        array = rng.standard_normal((count, width), np.float32)
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        made.append(array)
    return made


def check(sides, bank_ME, queries_NE, options):
    """Compiles, and stops the run if ours miss what the other side finds."""
    scores, rows = sides["ours"].search(queries_NE, options.k)
    if "faiss" in sides:
        wanted_scores, wanted = sides["faiss"].search(queries_NE, options.k)
    else:
        every = queries_NE[:_CHECKED] @ bank_ME.T
        wanted = np.argsort(-every, axis=1, kind="stable")[:, : options.k]
        wanted_scores = np.take_along_axis(every, wanted, axis=1)
    found = [
        np.isin(a, b) | (score <= worst + 1e-5)
        for a, b, score, worst in zip(
            wanted, rows, wanted_scores, scores[:, -1], strict=False
        )
    ]
    recall = float(np.mean(found))
    print(f"recall {recall:.5f}", file=sys.stderr)
    if recall < options.min_recall:
        sys.exit(f"recall {recall} is below {options.min_recall}")
    return recall


def report(options, seconds, recall):
    """Prints JSON, and writes it."""
    device = jax.devices()[0]
    result = {
        "rows": options.rows,
        "width": options.width,
        "queries": options.queries,
        "k": options.k,
        "dtype": options.dtype,
        "recall": recall,
        "device": f"{jax.device_count()} x {device.device_kind}",
        "versions": versions(),
        "sides": {
            side: {
                "queries_per_second_best": options.queries / min(times),
                "queries_per_second_median": options.queries / float(np.median(times)),
                "seconds": times,
            }
            for side, times in seconds.items()
        },
    }
    if "faiss" in seconds:
        for key in ("queries_per_second_best", "queries_per_second_median"):
            ours, theirs = (result["sides"][side][key] for side in ("ours", "faiss"))
            result[f"ratio_{key}"] = ours / theirs
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")


def versions():
    names = ("jax", "jaxlib", "numpy", "faiss-cpu")
    found = {"python": platform.python_version(), "cores": os.cpu_count()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    main()
