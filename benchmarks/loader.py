"""The loader on shards of made-up documents with pictures of 1,024 codes.

Every document is a caption of 4 to 30 ids and one picture, with vectors and four
neighbours inline, as the jobs `shards` and `retrieve` write them; three neighbours stand
in front of it. Measured: tokens a second with masking and packing, the share of real
tokens, and how long a state takes to be restored.

Usage:
    python benchmarks/loader.py --out=loader.json
    python benchmarks/loader.py --modes whole_4224 --rounds=3 --workers=2
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import tempfile
import time

import numpy as np

from cm3leon_jax.data import pipeline, record, shards
from cm3leon_jax.data.streams import LoaderConfig
from cm3leon_jax.vocab import Vocab

# Row length, packing, chances of 0, 1, 2, 3 retrieved documents.
MODES = {
    "whole_4224": (4_224, "whole", (0.0, 0.0, 0.0, 1.0)),
    "whole_4096": (4_096, "whole", (0.0, 0.0, 0.0, 1.0)),
    "whole_4096_pairs": (4_096, "whole", (1.0,)),
    "cut_4096": (4_096, "cut", (0.0, 0.0, 0.0, 1.0)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=4_096)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch_size", type=int, default=32, help="rows of this host")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round")
    parser.add_argument("--workers", type=int, default=1, help="threads")
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()
    result = {"documents": options.documents, "versions": versions(), "modes": {}}
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder) / "pairs", options.documents)
        for mode in options.modes:
            result["modes"][mode] = measure(folder, mode, options)
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")


def write(folder, number):
    """Writes a set of `number` documents."""
    vocab, rng = Vocab(), np.random.default_rng(0)
    tokens = [document(vocab, rng) for _ in range(number)]
    places = rng.integers(0, number, (number, 4))

    def records():
        for index, own in enumerate(tokens):
            near = record.Neighbors(
                places[index].astype(np.int32),
                np.zeros(4, np.float32),
                np.zeros(4, bool),
                tuple(tokens[place] for place in places[index]),
            )
            vector = rng.standard_normal(512).astype(np.float16)
            yield record.Record(
                id=f"folder/{index:08d}.jpg",
                tokens=own,
                modality=np.array([0, 1], np.uint8),
                source="benchmark",
                text_vector=vector,
                image_vector=vector,
                query_text_vector=vector,
                query_image_vector=vector,
                neighbors=near,
            )

    written = [shards.write_shard(folder, "train", 0, records())]
    info = shards.SetInfo(vocab, text_tokenizer="none", image_tokenizer="none")
    shards.finish(folder, info, {"train": written})


def document(vocab, rng):
    """A caption and a picture, uint16."""
    text = rng.integers(4, vocab.text_size, rng.integers(4, 31))
    codes = vocab.image_ids(rng.integers(0, vocab.image_size, vocab.codes_per_image))
    return np.concatenate([text, [vocab.break_id], codes]).astype(np.uint16)


def measure(folder, mode, options):
    """Numbers of one mode."""
    length, packing, probs = MODES[mode]
    config = LoaderConfig(
        max_length=length,
        batch_size=options.batch_size,
        num_streams=options.streams,
        packing=packing,
        neighbor_probs=probs,
    )
    specs = [pipeline.SetSpec(str(pathlib.Path(folder) / "pairs"))]
    dataset = pipeline.load(specs, config, num_workers=options.workers)
    batches = iter(dataset)
    real = [float((next(batches).segment_ids_BL > 0).mean()) for _ in range(20)]
    rates = []
    for _ in range(options.rounds):
        start, tokens = time.perf_counter(), 0
        while time.perf_counter() - start < options.seconds:
            tokens += next(batches).tokens_BL.size
        rates.append(tokens / (time.perf_counter() - start))
    alone = pipeline.load(specs, config, prefetch=0)
    restores = []
    for steps in (1, 50, 100):
        here = iter(alone)
        for _ in range(steps):
            next(here)
        state, fresh = here.get_state(), iter(alone)
        start = time.perf_counter()
        fresh.set_state(state)
        restores.append(1e3 * (time.perf_counter() - start))
    counts = alone.counts
    return {
        "tokens_per_second_best": max(rates),
        "tokens_per_second_median": float(np.median(rates)),
        "real_tokens": float(np.mean(real)),
        "restore_milliseconds": restores,
        "state_bytes": len(json.dumps(state)),
        "neighbors_per_document": counts.neighbors / counts.documents,
        "neighbors_dropped_share": counts.neighbors_dropped
        / max(1, counts.neighbors + counts.neighbors_dropped),
    }


def versions():
    names = ("numpy", "grain", "array_record")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"python": platform.python_version(), "cores": os.cpu_count()}


if __name__ == "__main__":
    main()
