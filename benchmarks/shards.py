"""Speed of making shards without the networks: pictures to records, tokens to disk.

pictures   JPEGs of 512 pixels in a tar: indexed, read, decoded, resized to 256, made
           into records (codes are those of a stand-in that computes nothing) and
           written, on one core
tokens     documents of 1,024 codes and a caption, serialised and written by one process
others     bare Pillow on the same pictures as files (`pictures_pillow`: decoded and
           resized, nothing else), and TFDS serialising the same records without
           writing them (`tokens_tfds`): in the same run, for the ratio

The run stops if ours and Pillow's pixels differ. The pictures are smooth random fields
with grain, about 90 kB each at quality 90, as photographs are. Every number is the best
and the median of `--rounds` rounds.

Usage:
    python benchmarks/shards.py --out=shards.json
"""

import argparse
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import statistics
import sys
import tarfile
import tempfile
import time

import numpy as np
from PIL import Image

from cm3leon_jax.data import record, shards, tokenise
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab()
PICTURE = PictureConfig(image_size=256)
CAPTION = "a photograph of a red bicycle that leans on a white wall"
MIN_PICTURES, MIN_DOCUMENTS = 150, 3_000  # a second: what the project asks for


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=300, help="of a round")
    parser.add_argument("--documents", type=int, default=10_000, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        mean_kb = draw(root / "pictures", options.pictures)
        check(root)
        made = documents(options.documents)
        sides = {
            "pictures": lambda: ours_pictures(root, options.pictures),
            "pictures_pillow": lambda: pillow_pictures(root),
            "tokens": lambda: ours_tokens(root, made),
            "tokens_tfds": lambda: tfds_tokens(made[: max(1, len(made) // 10)]),
        }
        found = {side: [] for side in sides}
        for number in range(options.rounds + 1):  # the first warms up
            for side, measure in sides.items():
                rate = measure()
                if number:
                    found[side].append(rate)
    report(options, found, mean_kb)


def draw(folder, count):
    """Writes pictures as files and as a tar; returns their mean size in kB."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = []
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for index in range(count):
            field = rng.uniform(0, 255, (24, 24, 3)).astype(np.uint8)
            smooth = Image.fromarray(field).resize((512, 512), Image.Resampling.BICUBIC)
            grain = rng.normal(0, 6, (512, 512, 1))
            pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
            sizes.append(buffer.tell())
            (folder / f"{index:09d}.jpg").write_bytes(buffer.getvalue())
            columns = {"caption": CAPTION, "key": f"{index:09d}", "license": "CC0"}
            members = {
                "jpg": buffer.getvalue(),
                "txt": CAPTION.encode(),
                "json": json.dumps(columns).encode(),
            }
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return sum(sizes) / len(sizes) / 1000


def check(root):
    """Stops the run unless both sides make the same pixels."""
    row = next(rows(root))
    refusals = Refusals()
    (loaded,) = tokenise.load([row], PICTURE, refusals, tasks={}, num_threads=1)
    theirs = pillow(min((root / "pictures").glob("*.jpg")))
    if not np.array_equal(loaded.pictures[0], theirs):
        sys.exit("the two sides do not make the same pixels")


def rows(root):
    config = SourceConfig(reader="tar")
    (one,) = inputs.find(root / "pictures", config)
    return inputs.rows(one, config, Refusals())


def encode_text(text):
    return [4 + byte for byte in text.encode()]


def encode_pictures(pictures):
    return np.zeros((len(pictures), VOCAB.codes_per_image), np.int32)


def ours_pictures(root, count):
    tools = tokenise.Tools(VOCAB, encode_text, encode_pictures, None)
    config = tokenise.TokeniseConfig(tasks={})
    refusals = Refusals()
    start = time.perf_counter()
    loaded = tokenise.load(list(rows(root)), PICTURE, refusals, tasks={}, num_threads=1)
    made = tokenise.records(
        loaded, tools, config, refusals, with_tasks=False, with_query=False
    )
    written = shards.write_shard(root / "pairs", "train", 0, made[tokenise.PAIRS])
    seconds = time.perf_counter() - start
    if written.records != count:
        sys.exit(f"{written.records} of {count} pictures were written: {refusals}")
    return count / seconds


def pillow(path):
    with Image.open(path) as picture:
        picture = picture.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        return np.asarray(picture)


def pillow_pictures(root):
    paths = sorted((root / "pictures").glob("*.jpg"))
    start = time.perf_counter()
    for path in paths:
        pillow(path)
    return len(paths) / (time.perf_counter() - start)


def documents(count):
    """Records of a caption and a picture, with the vectors of a ViT-B/32."""
    rng = np.random.default_rng(0)
    text = np.array(encode_text(CAPTION), np.uint16)
    made = []
    for index in range(count):
        codes = VOCAB.image_ids(rng.integers(0, VOCAB.image_size, 1_024))
        tokens = np.concatenate([text, [VOCAB.break_id], codes]).astype(np.uint16)
        vectors = rng.normal(size=(4, 512)).astype(np.float16)
        made.append(
            Record(
                id=f"00000/{index:09d}",
                tokens=tokens,
                modality=np.array([0, 1], np.uint8),
                licence="CC0",
                content_hash="0" * 64,
                text_vector=vectors[0],
                image_vector=vectors[1],
                query_text_vector=vectors[2],
                query_image_vector=vectors[3],
            )
        )
    return made


def ours_tokens(root, made):
    start = time.perf_counter()
    shards.write_shard(root / "tokens", "train", 0, made)
    return len(made) / (time.perf_counter() - start)


def tfds_tokens(made):
    """Serialises as a TFDS builder does; nothing is written."""
    features = record.features()
    fields = [features.deserialize_example_np(record.serialize(one)) for one in made]
    start = time.perf_counter()
    for one in fields:
        features.serialize_example(one)
    return len(made) / (time.perf_counter() - start)


def report(options, found, mean_kb):
    result = {
        "pictures_kb": round(mean_kb, 1),
        "cores": 1,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("pillow", "array-record", "tensorflow-datasets", "numpy")
        }
        | {"python": platform.python_version()},
    }
    for side, rates in found.items():
        result[f"{side}_per_second_best"] = round(max(rates), 1)
        result[f"{side}_per_second_median"] = round(statistics.median(rates), 1)
    result["asked_for"] = {"pictures": MIN_PICTURES, "tokens": MIN_DOCUMENTS}
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        pathlib.Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
