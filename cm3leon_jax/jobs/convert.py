"""A model's folder of one kind from one of the other: ours, and that of `transformers`.

    arrays.json       name, file, dtype, shape and SHA-256 of every array that was written
    shards/           the same for each file that is whole: it is not written again

The weights go array by array, of a training job's checkpoint too: a host holds one layer
of one of them at a time. Hosts of one job share the files.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm

from cm3leon_jax import cpu, storage
from cm3leon_jax.convert import (
    card,
    chameleon,
    chameleon_folder,
    files,
    huggingface,
    opt,
    picture_tokenizer,
    safetensors_file,
    table,
)
from cm3leon_jax.convert import folder as weight_folders
from cm3leon_jax.data import hosts, shards, trained
from cm3leon_jax.jobs import folder, resumption
from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.reports import benchmark
from cm3leon_jax.tasks import layout
from cm3leon_jax.tokenizers import chameleon as chameleon_tokenizers
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.train import export, state

LOG = "arrays.json"
_SHARD_LOGS = "shards"
_MB = 1_000_000

Lines = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Source:
    """A model of ours, its arrays read when they are asked for."""

    config: TransformerConfig
    context: Mapping[str, Any]
    digest: str
    specs: Mapping[str, safetensors_file.Spec]
    read: Callable[[str, int | None], np.ndarray]


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `config.target` from `config.source`.

    Raises:
      FileNotFoundError: If there is no model, or a part of it is gone.
      ValueError: If a file is damaged, the model has no place in the other kind of
        folder, or the target holds something.
    """
    directions = {"to_hf": _to_hf, "from_hf": _from_hf}
    if config.direction not in directions:
        known = ", ".join(directions)
        raise ValueError(f"direction={config.direction!r} must be one of {known}")
    for name in ("source", "target"):
        if not config[name]:
            raise ValueError(f"no --config.{name}; name a folder")
    if config.dtype not in export.DTYPES:
        raise ValueError(
            f"dtype={config.dtype!r} must be one of {', '.join(export.DTYPES)}"
        )
    target, root = pathlib.Path(config.target), pathlib.Path(workdir)
    begun = root / _SHARD_LOGS
    # In this order: another host makes its log's folder before it writes a file.
    is_taken = target.exists() and any(target.iterdir())
    if is_taken and not begun.exists():
        raise ValueError(
            f"{target} holds files already; name an empty folder, or the --workdir of"
            " the conversion that began to fill it"
        )
    if not folder.start(config, workdir):
        return
    cpu.return_freed_memory()
    lines = directions[config.direction](config, target, begun)
    if lines is None:
        return  # another host finishes
    storage.write_json(root / LOG, lines)
    size = sum(_num_bytes(line) for line in lines)
    print(
        f"{target}: {len(lines)} arrays, {size / _MB:.2f} MB; digests in {root / LOG}"
    )
    folder.finish(workdir, {"num_arrays": len(lines), "num_bytes": size})


def _to_hf(
    config: ml_collections.ConfigDict, target: pathlib.Path, begun: pathlib.Path
) -> Lines | None:
    mine = hosts.Hosts.here()
    source = _open_ours(config.source)
    whole = _whole(config, source)
    kind = _folder_of(source.config)
    kind.check(source.config, whole)
    rows = kind.rows(source.config, whole)
    _check_ours(config.source, source, rows)
    dtype = np.dtype(jax.numpy.dtype(config.dtype))
    make, others = table.make_theirs(rows, source.read, dtype), kind.tensors(whole)
    specs = table.their_specs(rows, dtype)
    for name, array in others.items():
        specs[name] = safetensors_file.Spec(array.dtype, array.shape)
    read = lambda name: others[name] if name in others else make(name)
    plan = weight_folders.plan_shards(specs, int(config.shard_mb * _MB))
    begun.mkdir(parents=True, exist_ok=True)
    for number in tqdm.tqdm(mine.share(len(plan)), unit=" files", desc="to_hf"):
        _write_once(target, plan[number], read, begun, source.digest)
    if not mine.is_first:
        return None
    logs = [_log_of(begun, shard, source.digest) for shard in plan]
    hosts.wait(logs, "files of weights")
    weight_folders.write_index(target, plan)
    lines = kind.write(target, source.config, config.dtype, whole)
    return [x for log in logs for x in storage.read_json(log)] + lines


def _from_hf(
    config: ml_collections.ConfigDict, target: pathlib.Path, begun: pathlib.Path
) -> Lines | None:
    if not hosts.Hosts.here().is_first:
        return None  # one file: the first host writes it
    # What does not belong together is refused before anything is in the target.
    with tempfile.TemporaryDirectory(dir=begun.parent) as scratch:
        pixels = pathlib.Path(scratch) / trained.PIXELS_FOLDER
        return _from_theirs(config, target, begun, pixels)


def _from_theirs(
    config: ml_collections.ConfigDict,
    target: pathlib.Path,
    begun: pathlib.Path,
    pixels: pathlib.Path,
) -> Lines:
    """Writes our folder; `pixels` is where the image tokenizer lies until it is right."""
    source = pathlib.Path(config.source)
    model, ours = huggingface.read_config(source)
    found = huggingface.open_weights(source, model)
    about: dict[str, Any] = {"shards": None, "coordinates": 0}
    if model.positions == "rotary":
        return _from_chameleon(config, target, begun, pixels, model, ours)
    text_model = b""
    if ours is not None:
        about = {name: ours[name] for name in about}
        info = shards.SetInfo.from_json(about["shards"])
        _check_size(source, info, model)
        text_model = huggingface.read_text_model(
            source, info.vocab, info.text_tokenizer
        )
    made: Lines = []
    if ours is not None:
        made = picture_tokenizer.read(source / huggingface.PIXELS_FOLDER, pixels)
        digest = storage.digest_file(pixels / image_tokenizers.WEIGHTS_FILE)
        trained.check(info, info.text_tokenizer, digest, source)
    begun.mkdir(parents=True, exist_ok=True)
    lines = _write_ours(target, opt.rows(model), found, config.dtype) + made
    if ours is not None:
        storage.write_bytes(target / text_tokenizers.FILE_NAME, text_model)
        storage.copy(pixels, target / trained.PIXELS_FOLDER)
    licence = config.licence or (ours or {}).get("licence", "")
    about |= {"source": config.source, "licence": licence}
    export.describe(target, model, about)
    return lines


def _from_chameleon(
    config: ml_collections.ConfigDict,
    target: pathlib.Path,
    begun: pathlib.Path,
    pixels: pathlib.Path,
    model: TransformerConfig,
    ours: Mapping[str, Any] | None,
) -> Lines:
    """Weights, and if the folder has both, vocabulary and image tokenizer."""
    source = pathlib.Path(config.source)
    found = huggingface.open_weights(source, model)
    texts = chameleon_folder.read_tokenizer(source)
    has_pixels = any(name.startswith(chameleon_folder.PIXELS) for name in found.names)
    about: dict[str, Any] = {"shards": None, "coordinates": layout.COORDINATES}
    if texts is None or not has_pixels:
        begun.mkdir(parents=True, exist_ok=True)
        print(f"{source} has no tokenizer.json, or no model.vqmodel: weights alone")
        lines = _write_ours(target, chameleon.rows(model), found, config.dtype)
    else:
        made = chameleon_folder.write_pixels(source, config.image_tokenizer, pixels)
        shape = image_tokenizers.read_config(pixels)
        vocab = texts.vocab(shape.codebook_size, shape.codes_per_image)
        huggingface.check_size(model, vocab)
        digest = storage.digest_file(pixels / image_tokenizers.WEIGHTS_FILE)
        info = shards.SetInfo(vocab, texts.digest, digest)
        if ours and not config.image_tokenizer:
            info = shards.SetInfo.from_json(ours["shards"])
            trained.check(info, texts.digest, digest, source)
        about |= {"shards": info.to_json()}
        about["coordinates"] = (ours or about)["coordinates"]
        rows = chameleon.rows(model, texts.theirs_V)
        begun.mkdir(parents=True, exist_ok=True)
        lines = _write_ours(target, rows, found, config.dtype) + made
        storage.write_bytes(target / chameleon_tokenizers.FILE_NAME, texts.data)
        storage.copy(pixels, target / trained.PIXELS_FOLDER)
    licence = config.licence or (ours or {}).get("licence", "") or chameleon.LICENCE
    about |= {"source": config.source, "licence": licence}
    export.describe(target, model, about)
    return lines


def _write_ours(
    target: pathlib.Path, rows: list[table.Row], found: files.Weights, name: str
) -> Lines:
    """Writes a transformer's weights as an export has them, in a dtype."""
    dtype = np.dtype(jax.numpy.dtype(name))
    specs = table.our_specs(rows, dtype)
    made = table.make_ours(rows, found.tensor, dtype)
    parts = tqdm.tqdm(made, total=len(rows), unit=" arrays", desc="from_hf")
    digests = safetensors_file.write(target / export.WEIGHTS_FILE, specs, parts)
    return [
        {
            "name": one,
            "file": export.WEIGHTS_FILE,
            "dtype": str(dtype),
            "shape": list(spec.shape),
            "sha256": digests[one],
        }
        for one, spec in specs.items()
    ]


def _folder_of(model: TransformerConfig) -> Any:
    """The module that writes the folder of a model's family."""
    return chameleon_folder if model.positions == "rotary" else huggingface


def _open_ours(path: str) -> _Source:
    """A training job's newest checkpoint, or an exported model."""
    place = trained.places(path).model
    if (place / export.ABOUT_FILE).exists():
        about = export.read_about(place)
        file = safetensors_file.File(place / export.WEIGHTS_FILE)
        specs = {name: where.spec for name, where in file.places.items()}
        fields = TransformerConfig(**about["model"])
        return _Source(fields, about, about["weights"], specs, file.read)
    found = state.open_model(str(place))
    specs = {
        name: safetensors_file.Spec(x.dtype, x.shape)
        for name, x in found.state.specs.items()
    }
    fields = TransformerConfig(**found.context["model"])
    return _Source(fields, found.context, found.state.digest, specs, found.state.read)


def _check_ours(path: str, source: _Source, rows: list[table.Row]) -> None:
    """Refuses a model whose arrays are not those of the table (ValueError)."""
    wanted = table.our_specs(rows, np.dtype("float32"))
    for name in sorted(wanted.keys() | source.specs.keys()):
        there = source.specs[name].shape if name in source.specs else None
        here = wanted[name].shape if name in wanted else None
        if there != here:
            raise ValueError(
                f"{path}: {name!r} has shape {there}, its config says {here}; both must"
                " be of one export"
            )


def _check_size(
    path: pathlib.Path, info: shards.SetInfo, model: TransformerConfig
) -> None:
    if info.vocab.size != model.vocab_size:
        raise ValueError(
            f"{path}: the model has {model.vocab_size} ids, its vocabulary"
            f" {info.vocab.size}; config.json was changed, restore it"
        )


def _whole(config: ml_collections.ConfigDict, source: _Source) -> huggingface.Whole:
    """The tokenizers of a model, and what the card says."""
    found = trained.places(config.source)
    info = trained.set_info(config.source, dict(source.context))
    text_file = text_tokenizers.find(found.text)
    text_model = text_file.read_bytes()
    place = image_tokenizers.root(found.pixels)
    digest = storage.digest_file(place / image_tokenizers.WEIGHTS_FILE)
    text_digest = text_tokenizers.load(text_file).digest
    trained.check(info, text_digest, digest, config.source)
    licence = config.licence or source.context.get("licence", "")
    return huggingface.Whole(
        vocab=info.vocab,
        text_model=text_model,
        pixels=found.pixels,
        upscaler=config.upscaler or None,
        about={
            "shards": info.to_json(),
            "coordinates": found.coordinates,
            "licence": licence,
        },
        origin=card.Provenance(
            source=config.source,
            licence=licence,
            weights=source.digest,
            text_tokenizer=text_digest,
            image_tokenizer=digest,
            data=_data_card(found),
            limits="\n\n".join(map(_measured, config.evaluations)),
            version=f"cm3leon-jax {resumption.versions()['cm3leon-jax']}",
        ),
    )


def _data_card(found: trained.Places) -> str:
    """The card of the data that a run's model was trained on, if it lies there."""
    if (found.model / export.ABOUT_FILE).exists():
        return ""
    path = trained.shards_folder(found.model) / trained.PAIRS / "card.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _measured(evaluation: str) -> str:
    """The tables of what the job `evaluate` measured in a folder."""
    found = folder.summary(evaluation)
    if found is None:
        raise FileNotFoundError(
            f"{evaluation} holds no finished evaluation; finish it, or leave it out of"
            " `evaluations`"
        )
    settings = found.get("settings", {})  # the built-in scenes' numbers have none
    name = settings.get("name", pathlib.Path(evaluation).name)
    return benchmark.markdown(name, found.get("numbers", found), settings)


def _write_once(
    target: pathlib.Path,
    shard: weight_folders.Shard,
    make: table.Read,
    begun: pathlib.Path,
    digest: str,
) -> None:
    """Writes a file of weights, unless it is there and whole, of the same source."""
    log = _log_of(begun, shard, digest)
    if log.exists() and (target / shard.name).exists():
        return
    storage.write_json(log, weight_folders.write_shard(target, shard, make))


def _log_of(
    begun: pathlib.Path, shard: weight_folders.Shard, digest: str
) -> pathlib.Path:
    """What says that a file is whole, made from a source of this digest."""
    return begun / f"{shard.name}.{digest[:16]}.json"


def _num_bytes(line: Mapping[str, Any]) -> int:
    return int(np.prod(line["shape"])) * jax.numpy.dtype(line["dtype"]).itemsize
