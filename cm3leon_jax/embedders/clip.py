"""A trained bi-encoder as functions from text and pictures to unit vectors.

On disk, a folder:

    config.json           format, shape, how text becomes ids
    weights.safetensors   the parameters by dotted name
    text.model            the SentencePiece model, where text is "sentencepiece"

or a CLIP checkpoint of Hugging Face (`huggingface`, `bpe`), such as ViT-B/32, with which
the paper retrieves.

Equal inputs give equal vectors whatever else is in the call: texts are grouped by their
own length, batches have one shape, and what query dropout drops depends on the seed and
the input alone.

Letters: N texts or pictures, L text positions, P patches, E width of the vectors.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from PIL import Image

from cm3leon_jax import sharding, storage
from cm3leon_jax.embedders import bpe, huggingface
from cm3leon_jax.models import clip
from cm3leon_jax.tokenizers import text as text_lib

EXPORT = "export"  # where in its job's folder a trained bi-encoder lies
_FORMAT = 1
_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_LENGTH_STEP = 8  # texts are padded to a multiple of it, to compile few shapes


class AbstractTextEncoder(Protocol):
    """What turns text into the ids of one bi-encoder.

    Attributes:
      bos_id: Id that begins a text; eos_id: Id that ends it.
      digest: Of what decides the ids.
    """

    bos_id: int
    eos_id: int
    digest: str

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, begin and end not included."""
        ...


class SentencePieceText:
    """The text side of small bi-encoders: the run's own text tokenizer."""

    bos_id, eos_id = 0, 2  # `<s>` and `</s>`

    def __init__(self, tokenizer: text_lib.TextTokenizer):
        """Wraps a tokenizer.

        Args:
          tokenizer: The run's, or any other that `tokenizers.text` trained.
        """
        self.encode = tokenizer.encode
        self.digest = tokenizer.digest


# How a folder's config names its text side.
_TEXT_SIDES: dict[str, Callable[[epath.Path], AbstractTextEncoder]] = {
    "sentencepiece": lambda folder: SentencePieceText(
        text_lib.TextTokenizer.load(folder / text_lib.FILE_NAME)
    ),
}


class ClipEmbedder:
    """Texts and pictures to unit vectors of one space.

    Attributes:
      dim: Width E of the vectors.
      digest: Of weights, shape and tokenizer; kept with everything made from vectors.
    """

    def __init__(
        self,
        model: clip.Clip,
        config: clip.ClipConfig,
        text: AbstractTextEncoder,
        digest: str,
        *,
        batch_size: int = 256,
        rows: sharding.LocalRows | None = None,
    ):
        """Makes an embedder of a model in memory.

        Args:
          model: The towers.
          config: Their shape.
          text: Text to ids.
          digest: Of all of it.
          batch_size: Rows of one call of the towers, on each device.
          rows: The devices that they are spread over; None for the first alone.
        """
        self.dim = config.embed_dim
        self.digest = digest
        self._config, self._text, self._batch_size = config, text, batch_size
        self._definition, params = nnx.split(model)
        self._rows, self._params = rows, rows.put_weights(params) if rows else params
        self._embed_texts = jax.jit(
            lambda params, *args: nnx.merge(self._definition, params).embed_texts(*args)
        )
        self._embed_pictures = jax.jit(
            lambda params, pictures, *args: nnx.merge(
                self._definition, params
            ).embed_pictures(clip.normalize_pixels(pictures), *args)
        )

    @classmethod
    def load(
        cls, folder: storage.Path, *, rows: sharding.LocalRows | None = None
    ) -> ClipEmbedder:
        """Reads an embedder: a CLIP checkpoint of Hugging Face, or what `save` wrote.

        Args:
          folder: Of the checkpoint, of the export, or of the job that wrote it.
          rows: The devices that texts and pictures are spread over.

        Raises:
          FileNotFoundError: If a file is missing.
          ValueError: If a file is damaged, or the weights have another shape.
        """
        root = storage.place(folder)
        if (root / EXPORT).is_dir():
            root /= EXPORT
        if not (root / _CONFIG).exists():
            raise FileNotFoundError(
                f"no bi-encoder in {root}; train one with configs/clip.py, or copy a"
                " CLIP checkpoint of Hugging Face there"
            )
        record = storage.read_json(root / _CONFIG)
        if huggingface.is_checkpoint(record):
            config, text, arrays = _read_checkpoint(root, record)
            weights = root / huggingface.WEIGHTS
        else:
            config = _read_config(root / _CONFIG, record)
            text = _TEXT_SIDES[record["text"]](root)
            weights = root / _WEIGHTS
            arrays, _ = storage.load_arrays(weights)
        model = _model(config, arrays, weights)
        parts = [storage.digest_file(path) for path in (root / _CONFIG, weights)]
        digest = storage.digest_bytes("/".join([*parts, text.digest]).encode())
        return cls(model, config, text, digest, rows=rows)

    def embed_text(
        self, texts: Sequence[str], *, drop_prob: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Returns one unit vector a text; long texts are cut.

        Args:
          texts: N strings.
          drop_prob: Share of the pieces dropped, as queries have in training.
          seed: Decides, with each text, which pieces.

        Returns:
          float32[N, E].
        """
        rows = [self._text.encode(text) for text in texts]
        if drop_prob:
            rows = [
                _drop(ids, drop_prob, _generator(text.encode(), seed))
                for text, ids in zip(texts, rows, strict=True)
            ]
        limit = self._config.max_length
        framed = [
            frame(ids, limit, self._text.bos_id, self._text.eos_id) for ids in rows
        ]
        lengths_N = np.array([_rounded(len(ids), limit) for ids in framed], int)
        vectors_NE = np.zeros((len(texts), self.dim), np.float32)
        for length in np.unique(lengths_N):
            places = np.flatnonzero(lengths_N == length)
            ids_NL = pad([framed[place] for place in places], length, self._text.eos_id)
            vectors_NE[places] = self._in_batches(self._embed_texts, ids_NL)
        return vectors_NE

    def embed_pictures(
        self, pictures: np.ndarray, *, drop_prob: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Returns one unit vector a picture.

        Args:
          pictures: uint8[N, Y, X, 3]; another size than the towers' is resized by
            CLIP's rule (bicubic to the shorter side, then the centre).
          drop_prob: Share of the patches dropped, as queries have in training.
          seed: Decides, with each picture, which patches.

        Returns:
          float32[N, E].

        Raises:
          ValueError: If `pictures` are not bytes of that shape.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ValueError(
                "pictures must be uint8[N, Y, X, 3], got"
                f" {pictures.dtype}{list(pictures.shape)}"
            )
        pictures = fit(pictures, self._config.image_size)
        if not drop_prob:
            return self._in_batches(self._embed_pictures, pictures)
        num_patches = self._config.num_patches
        num_kept = max(1, num_patches - int(num_patches * drop_prob))
        kept = [
            np.sort(_generator(one.tobytes(), seed).permutation(num_patches)[:num_kept])
            for one in pictures
        ]
        kept_NP = np.array(kept, np.int32).reshape(len(pictures), num_kept)
        return self._in_batches(self._embed_pictures, pictures, kept_NP)

    def _in_batches(
        self, embed: Callable[..., jax.Array], *arrays: np.ndarray
    ) -> np.ndarray:
        """Applies a tower to rows, in batches of one shape."""
        rows, count = self._rows, len(arrays[0])
        size = self._batch_size * (rows.num_devices if rows else 1)
        vectors = []
        for first in range(0, count, size):
            parts = [array[first : first + size] for array in arrays]
            missing = size - len(parts[0])
            filled = [
                np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
                for part in parts
            ]
            placed = [rows.put(one) for one in filled] if rows else filled
            vectors.append(np.asarray(embed(self._params, *placed))[: len(parts[0])])
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dim), "f4")


def save(
    folder: storage.Path,
    model: clip.Clip,
    config: clip.ClipConfig,
    tokenizer_path: storage.Path,
) -> None:
    """Writes a bi-encoder of our own text pieces as a folder; the config comes last.

    Args:
      folder: Where to.
      model: The towers.
      config: Their shape.
      tokenizer_path: The SentencePiece model that it was trained with.
    """
    root = pathlib.Path(folder)
    storage.write_bytes(
        root / text_lib.FILE_NAME, pathlib.Path(tokenizer_path).read_bytes()
    )
    storage.save_arrays(root / _WEIGHTS, _flat(nnx.state(model)))
    record = {
        "format": _FORMAT,
        "text": "sentencepiece",
        "model": dataclasses.asdict(config),
    }
    storage.write_json(root / _CONFIG, record)


def frame(ids: Sequence[int], max_length: int, bos_id: int, eos_id: int) -> list[int]:
    """Puts begin and end around a text, cut so that both fit: CLIP's rule."""
    return [bos_id, *ids[: max_length - 2], eos_id]


def pad(rows: Sequence[Sequence[int]], length: int, eos_id: int) -> np.ndarray:
    """Fills rows up with the end token, which towers never see after the first.

    Returns:
      int32[N, length].
    """
    ids_NL = np.full((len(rows), length), eos_id, np.int32)
    for ids_L, row in zip(ids_NL, rows, strict=True):
        ids_L[: len(row)] = row
    return ids_NL


def fit(pictures: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes to squares by CLIP's rule; pictures of that size come back unchanged.

    Args:
      pictures: uint8[N, Y, X, 3].
      image_size: Pixels a side.

    Returns:
      uint8[N, image_size, image_size, 3].
    """
    height, width = pictures.shape[1:3]
    if (height, width) == (image_size, image_size):
        return pictures
    shorter = min(height, width)
    size = (image_size * width // shorter, image_size * height // shorter)
    left, top = ((side - image_size) // 2 for side in size)
    box = (left, top, left + image_size, top + image_size)
    resized = [
        np.asarray(
            Image.fromarray(one).resize(size, Image.Resampling.BICUBIC).crop(box)
        )
        for one in pictures
    ]
    return np.array(resized, np.uint8).reshape(-1, image_size, image_size, 3)


def _generator(data: bytes, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(data)])


def _drop(ids: list[int], drop_prob: float, rng: np.random.Generator) -> list[int]:
    """Drops that share of the pieces, never all."""
    num_kept = max(1, len(ids) - int(len(ids) * drop_prob))
    places = np.sort(rng.permutation(len(ids))[:num_kept])
    return [ids[place] for place in places]


def _rounded(length: int, limit: int) -> int:
    return min(limit, -(-length // _LENGTH_STEP) * _LENGTH_STEP)


def _read_checkpoint(
    root: epath.Path, record: dict[str, Any]
) -> tuple[clip.ClipConfig, AbstractTextEncoder, dict[str, np.ndarray]]:
    """Reads a CLIP checkpoint of Hugging Face.

    Raises:
      ValueError: If its tokenizer is another than its towers were trained with.
    """
    config = huggingface.read_config(root / _CONFIG, record)
    huggingface.check_preprocessing(root, config)
    text = bpe.ClipBpe.load(root)
    if text.vocab_size > config.vocab_size or text.eos_id != config.eos_id:
        raise ValueError(
            f"{root}: the tokenizer has {text.vocab_size} ids and ends texts with"
            f" {text.eos_id}, config.json says {config.vocab_size} and {config.eos_id};"
            " take both from one checkpoint"
        )
    return config, text, huggingface.read_weights(root, config)


def _read_config(path: epath.Path, record: Any) -> clip.ClipConfig:
    """Reads a typed shape from JSON."""
    try:
        if record["format"] != _FORMAT or record["text"] not in _TEXT_SIDES:
            raise ValueError(
                f"{path} has format {record['format']!r}, text {record['text']!r};"
                f" known: {_FORMAT}, {', '.join(_TEXT_SIDES)}"
            )
        shape = dict(record["model"])
        towers = {
            side: clip.TowerConfig(**shape.pop(side)) for side in ("vision", "text")
        }
        return clip.ClipConfig(**towers, **shape)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} describes no bi-encoder: {error}") from error


def _model(
    config: clip.ClipConfig, arrays: dict[str, np.ndarray], path: epath.Path
) -> clip.Clip:
    """Puts arrays into a model of that shape.

    Raises:
      ValueError: If names or shapes differ.
    """
    model = nnx.eval_shape(lambda: clip.Clip(config, rngs=nnx.Rngs(0)))
    definition, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    wanted = {_name(place): leaf.shape for place, leaf in flat}
    found = {name: array.shape for name, array in arrays.items()}
    if wanted != found:
        names = [n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]
        raise ValueError(
            f"{path} does not fit its config.json, first at {names[0]!r}: expected"
            f" {wanted.get(names[0])}, found {found.get(names[0])}; restore the folder"
        )
    filled = [
        (place, leaf.replace(jnp.asarray(arrays[_name(place)]))) for place, leaf in flat
    ]
    return nnx.merge(definition, nnx.from_flat_state(filled))


def _flat(state: nnx.State) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(state)
    return {_name(place): np.asarray(leaf[...]) for place, leaf in flat}


def _name(place: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in place)
