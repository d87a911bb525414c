"""A small random model with all its parts, for tests of what it is converted to."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from cm3leon_jax import storage
from cm3leon_jax.convert import opt, table
from cm3leon_jax.data import shards
from cm3leon_jax.models import transformer, vqgan
from cm3leon_jax.tokenizers import image, text
from cm3leon_jax.train import checkpoint, export, state
from cm3leon_jax.vocab import Vocab

TEXTS = ["a red circle at the top left", "Describe the given picture.", "né ☃ 12"]
# Everything that published models have; sides of 8 and 4 have attention.
PIXELS = vqgan.VqganConfig(
    image_size=16, base_channels=8, multipliers=(1, 2, 2), encoder_kernels=(3, 3, 3),
    decoder_kernels=(3, 3, 3), num_res_blocks=1, attention_sizes=(8,), num_groups=4,
    latent_channels=6, code_dim=5, codebook_size=24,
)  # fmt: skip


def model_config(vocab_size, **changes):
    # Embeddings this small make the norm's epsilon count.
    fields = {
        "num_layers": 3, "num_heads": 4, "model_dim": 64, "head_dim": 16, "mlp_dim": 96,
        "vocab_size": vocab_size, "max_length": 80,
    }  # fmt: skip
    return transformer.TransformerConfig(**fields | changes)


def random_model(config, seed=0):
    """A model none of whose arrays is zero, as those of the first step are."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, leaf in checkpoint.flatten(_shapes(config)).items():
        std = 0.01 if "embedding" in name else 0.15
        arrays[name] = rng.normal(0, std, leaf.shape).astype(np.float32)
    return fill(config, arrays)


def fill(config, arrays):
    """The model of a config with these arrays."""
    return state.fill(_shapes(config), arrays)


def _shapes(config):
    make = lambda: transformer.Transformer(config, rngs=nnx.Rngs(params=0))
    return jax.eval_shape(make)


def arrays_of(model):
    return {name: np.asarray(x) for name, x in checkpoint.flatten(model).items()}


def logits(model, tokens_BL):
    tokens_BL = np.asarray(tokens_BL, np.int32)
    positions_BL = np.broadcast_to(np.arange(tokens_BL.shape[1]), tokens_BL.shape)
    x_BLD = model(tokens_BL, positions_BL.astype(np.int32), np.ones_like(tokens_BL))
    return np.asarray(model.head(x_BLD))


def to_theirs(model, dtype="float32"):
    """Our arrays under OPT's names, as the job writes them."""
    arrays, rows = arrays_of(model), opt.rows(model.config)
    read = lambda name, row: arrays[name] if row is None else arrays[name][row]
    make = table.make_theirs(rows, read, np.dtype(jax.numpy.dtype(dtype)))
    return {name: make(name) for row in rows for name in row.theirs}


def export_to(folder):
    """Exports a model with random weights, its tokenizers trained on a few texts."""
    texts = text.train(TEXTS * 4, 300, folder / "text.model")
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(0.2, 0.3, x.shape).astype(np.float32)
    arrays = {name: draw(x) for name, x in image.shapes(PIXELS).items()}
    image.write(arrays, PIXELS, folder / "vqgan")
    vocab = Vocab(
        text_size=texts.vocab_size + 5, image_size=24, control_size=12,
        num_sentinels=8, codes_per_image=PIXELS.codes_per_image,
    )  # fmt: skip
    digest = storage.digest_file(folder / "vqgan" / image.WEIGHTS_FILE)
    info = shards.SetInfo(vocab, texts.digest, digest)
    model = random_model(model_config(vocab.size))
    about = {"shards": info.to_json(), "coordinates": 16, "licence": "CC0-1.0"}
    export.write(folder, model, "float32", about | {"source": "nothing"})


def train_to(root, exported, model=None):
    """Writes the folders that a training job of an exported model would have.

    Args:
      root: gets "run" and "shards".
      exported: Folder of an exported model, whose tokenizers they name.
      model: Other weights than the exported model's.

    Returns:
      The job's folder, with a checkpoint of the weights and of moments.
    """
    found, about = export.read(exported)
    model = found if model is None else model
    made = {"tokenizer": str(exported), "image_tokenizer": str(exported / "vqgan")}
    tasks = {"layout": {"coordinates": about["coordinates"]}}
    record = made | {"embedder": "", "tokenise": {"tasks": tasks}}
    storage.write_json(root / "shards" / "config.json", record)
    storage.write_json(root / "run" / "config.json", {"shards": str(root / "shards")})
    fields = dataclasses.asdict(model.config)
    saver = checkpoint.Checkpointer(
        str(root / "run" / state.CHECKPOINTS),
        context={"model": fields, "shards": about["shards"]},
    )
    moments = jax.tree.map(lambda x: x * 0.5, model)
    saver.save(7, {"model": model, "optimizer": moments})
    saver.close()
    return root / "run"
