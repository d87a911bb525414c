"""A trained model with its tokenizers in one folder: for sharing, for `api.load`.

    export.json          vocabulary, config of the model, digests, what it comes from
    model.safetensors    the transformer's weights
    text.model, vqgan/   its tokenizers, byte for byte; Chameleon's is tokenizer.json

Bi-encoder and memory bank stay with the run.
"""

from __future__ import annotations

import pathlib
import shutil

import ml_collections

from cm3leon_jax.data import trained
from cm3leon_jax.jobs import folder
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.train import export


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes the folder; `export.json` comes last, so an unfinished one loads nowhere.

    Raises:
      FileNotFoundError: If there is no model, or a part of the run is gone.
      ValueError: If a file is damaged, or the dtype is unknown.
    """
    if not folder.start(config, workdir):
        return
    root = pathlib.Path(workdir)
    model = trained.load(config.source)
    found = trained.places(config.source)
    text_file = text_tokenizers.find(found.text)
    shutil.copyfile(text_file, root / text_file.name)
    pixels = image_tokenizers.load_model(found.pixels)
    image_tokenizers.save(pixels, root / trained.PIXELS_FOLDER)
    about = {
        "shards": model.info.to_json(),
        "coordinates": model.coordinates,
        "source": config.source,
        "licence": config.licence,
    }
    digest = export.write(root, model.model, config.dtype, about)
    trained.load(root)  # what was written can be read, and belongs together
    size = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
    print(f"model.safetensors {digest}; {size / 1e6:.2f} MB of weights in {root}")
    folder.finish(workdir, {"weights": digest, "num_bytes": size})
