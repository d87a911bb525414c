"""A model and its tokenizers belong together, or are refused by what differs."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import trained
from cm3leon_jax.tokenizers import image
from tests import bucket as bucket_lib
from tests import small_models


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    small_models.export_to(folder)
    trained.load(folder)  # as it is, all parts belong together
    return folder


def _with_pixels(folder, **changes):
    """Puts an image tokenizer of another shape, or of other weights, there."""
    config = dataclasses.replace(small_models.PIXELS, **changes)
    arrays = {n: np.zeros(x.shape, np.float32) for n, x in image.shapes(config).items()}
    image.write(arrays, config, folder / trained.PIXELS_FOLDER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 16}, "16 codes a picture of a codebook of 16; .* 16 of 24"),
        ({"image_size": 24}, "36 codes a picture of a codebook of 24; .* 16 of 24"),
        ({}, "another image_tokenizer"),
    ],
    ids=["codebook", "codes", "weights"],
)
def test_another_image_tokenizer_is_refused(exported, changes, message):
    _with_pixels(exported, **changes)
    with pytest.raises(ValueError, match=message):
        trained.load(exported)


# Saves an exported model as the checkpoint of two runs, and reads it from everywhere.
_READS = """
import sys
import numpy as np
from cm3leon_jax.data import trained
from cm3leon_jax.train import checkpoint, export
exported, *others = sys.argv[1:]
model, about = export.read(exported)
for run in others[1:]:
    context = {name: about[name] for name in ("model", "shards")}
    writer = checkpoint.Checkpointer(run + "/checkpoints", context=context)
    writer.save(3, {"model": model})
    writer.close()
def content(path):
    found = trained.load(path)
    arrays = checkpoint.flatten(found.model).items()
    weights = {name: (x.shape, np.asarray(x).tobytes()) for name, x in arrays}
    digests = found.texts.digest, found.images.digest
    return weights, digests, found.info, found.texts.encode("a red circle")
wanted = content(exported)
for path in others:
    assert content(path) == wanted, path
    print(trained.places(path))
"""


@pytest.fixture
def bucket():
    pytest.importorskip("gcsfs")
    yield from bucket_lib.serve()


def test_model_in_a_bucket_is_the_one_on_a_disk_wherever_its_tokenizers_are(
    bucket, tmp_path
):
    here = tmp_path / "model"
    small_models.export_to(here)
    upload(bucket, here, "model")
    upload(bucket, here / "vqgan", "vqgan")
    upload(bucket, here / "text.model", "text/text.model")
    # One run whose shards lie on a disk; one that was made where the bucket is mounted.
    for run, shards, text, pixels in (
        ("disk/run", tmp_path / "shards", here / "text.model", here / "vqgan"),
        ("run", "/mnt/b/shards", "/mnt/b/text", "/mnt/b/vqgan"),
    ):
        put(bucket, f"{run}/config.json", {"shards": str(shards)})
        made = {"tokenizer": str(text), "image_tokenizer": str(pixels)}
        made |= {"tokenise": {"tasks": {}}, "embedder": ""}
        if shards == "/mnt/b/shards":
            put(bucket, "shards/config.json", made)
        else:
            storage.write_json(shards / "config.json", made)
    places = [str(here), *map(bucket.path, ("model", "disk/run", "run"))]
    done = subprocess.run(
        [sys.executable, "-c", _READS, *places],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | bucket.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, on_disk, in_bucket = done.stdout.splitlines()
    assert str(here / "vqgan") in on_disk and bucket.path("vqgan") not in on_disk
    assert bucket.path("text") in in_bucket and bucket.path("vqgan") in in_bucket


def put(bucket, name, record):
    bucket.put(name, json.dumps(record).encode(), None)


def upload(bucket, source, name):
    """Puts a file, or all files of a folder, into a bucket."""
    for path in [source] if source.is_file() else sorted(source.rglob("*")):
        if path.is_file():
            rest = path.relative_to(source).as_posix()
            bucket.put(f"{name}/{rest}".removesuffix("/."), path.read_bytes(), None)
