"""One step's folder of a checkpoint: arrays and manifest, written and verified whole.

    00001000/
      state/      named arrays
      manifest/   JSON with a digest of every array and one of itself

Large arrays are cut along their first dimension, in layers, so that one can be read
without the others (`stored`). A folder takes its name when it is whole; in a bucket,
where nothing is renamed, Orbax writes `commit_success.txt` last, and a step without it is
none.

Which steps are kept and what they mean is `checkpoint`'s.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from cm3leon_jax import storage
from cm3leon_jax.train import digests, hosts

FORMAT = 2
_SHA_FORMAT = 1  # had one SHA-256 of each whole array
STATE = "state"
_COMMITTED = "commit_success.txt"
_CHUNK_BYTES = 32 << 20  # decoded: what a reader holds at least
_ENTRY_BYTES = 256 << 10  # entries of the first dimension from here on lie apart
_NAME = re.compile(r"\d{8,}")
# What Orbax, TensorStore, JSON and the file system raise over damaged or missing files,
# or over a disk that is full.
FAULTS = (ValueError, OSError, KeyError, TypeError, RuntimeError)


class DamagedError(ValueError):
    """A checkpoint that cannot be read or whose content is not what was written."""


def folder(root: epath.Path, step: int) -> epath.Path:
    """Returns where a step lies."""
    return root / f"{step:08d}"


def steps(root: epath.Path) -> list[int]:
    """Returns the steps that have a folder, the newest first, as the first host sees."""
    found = []
    if hosts.is_first() and root.exists():
        names = [p.name for p in root.iterdir() if p.is_dir() and _is_committed(p)]
        found = sorted((int(n) for n in names if _NAME.fullmatch(n)), reverse=True)
    return hosts.first(found)


def remove(path: epath.Path) -> None:
    """Deletes a step; in a bucket it first ceases to be one."""
    if storage.is_in_bucket(path):
        (path / _COMMITTED).unlink(missing_ok=True)
    path.rmtree(missing_ok=True)


def make_manifest(
    arrays: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the manifest of named arrays.

    Args:
      arrays: by name.
      about: further JSON values.

    Raises:
      ValueError: if `about` holds a number that is not finite.
    """
    found = digests.of(arrays)
    described = {
        name: {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "digest": found[name],
        }
        for name, array in arrays.items()
    }
    manifest = {"format": FORMAT, **about, "arrays": described}
    return manifest | {"digest": digest_json(manifest)}


def write(
    path: epath.Path, arrays: Mapping[str, Any], manifest: Mapping[str, Any]
) -> ocp.AsyncResponse[None]:
    """Starts to write a step; the arrays may be donated when it returns."""
    context = _context()
    context.array.saving.scoped_storage_options_creator = _layout
    with context:
        unit = {STATE: dict(arrays), "manifest": dict(manifest)}
        return ocp.save_checkpointables_async(path, unit)


def read_manifest(path: epath.Path) -> dict[str, Any]:
    """Returns a step's manifest.

    Raises:
      DamagedError: if there is none, or it is not what was written.
      ValueError: if a newer program wrote it.
    """
    manifest: dict[str, Any] = {}
    problem = ""
    try:
        with _context():
            manifest = ocp.load_checkpointables(path, {"manifest": None})["manifest"]
        if manifest.pop("digest") != digest_json(manifest):
            problem = f"{path}: the manifest's digest differs"
    except FAULTS as error:
        problem = f"{path}: no whole manifest ({error})"
    raise_together(problem)
    if manifest["format"] not in (FORMAT, _SHA_FORMAT):
        raise ValueError(
            f"{path} has format {manifest['format']}, this program reads up to {FORMAT};"
            " update the program"
        )
    return manifest


def read_arrays(
    path: epath.Path, manifest: Mapping[str, Any], like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns arrays of a step, each verified by its digest where it now lies.

    Args:
      path: the step's folder.
      manifest: of the step.
      like: names wanted, with `jax.ShapeDtypeStruct`s whose shardings the arrays take;
        np.ndarrays come where there is no sharding. None reads all, as np.ndarrays.

    Raises:
      DamagedError: if an array cannot be read or differs from its digest.
    """
    entries = manifest["arrays"]
    wanted = {
        name: _template(entries[name], (like or {}).get(name))
        for name in like or entries
    }
    arrays: dict[str, Any] = {}
    problem = ""
    try:
        with _context():
            arrays = ocp.load_checkpointables(path, {STATE: wanted})[STATE]
    except FAULTS as error:
        problem = f"{path}: arrays cannot be read ({error})"
    raise_together(problem)
    _verify(path, arrays, entries)
    return arrays


def refuse_other_shapes(
    manifest: Mapping[str, Any], wanted: Mapping[str, Any], path: epath.Path
) -> None:
    """Refuses a step whose arrays are not those of the model and optimizer at hand.

    Args:
      manifest: of the step.
      wanted: name -> array or `jax.ShapeDtypeStruct`.
      path: the step's folder, for the message.

    Raises:
      ValueError: with the first few that differ.
    """
    shapes = lambda x: (tuple(x["shape"]), x["dtype"])
    found = {name: shapes(entry) for name, entry in manifest["arrays"].items()}
    needed = {n: (x.shape, str(x.dtype)) for n, x in wanted.items()}
    differing = [
        f"{name}: there {found.get(name, 'none')}, wanted {needed.get(name, 'none')}"
        for name in sorted(found | needed)
        if found.get(name) != needed.get(name)
    ]
    if differing:
        shown = "; ".join(differing[:4])
        raise ValueError(
            f"{path} is of another model or optimizer: {shown}"
            f" ({len(differing)} arrays differ); use another workdir"
        )


def digest_json(record: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, in the order of their names."""
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha(array: Any) -> str:
    """SHA-256 of an array's bytes, as format 1 has it."""
    host = np.ascontiguousarray(array)
    data = host.view(np.uint8).data if host.ndim else host.tobytes()
    return hashlib.sha256(data).hexdigest()


def raise_together(problem: str) -> None:
    """Raises on every host if one has a problem, so that all take the same step."""
    problem = hosts.any_of(problem)
    if problem:
        raise DamagedError(problem)


def _layout(key: Any, value: Any) -> ocp.options.ArrayOptions.Saving.StorageOptions:
    """How an array is cut on disk: in layers, if a device's part of one is large.

    One chunk of all layers would have to be read and decoded whole for each of them;
    entries smaller than that are cheaper together.
    """
    del key
    sharding = getattr(value, "sharding", None)
    shape = sharding.shard_shape(value.shape) if sharding else value.shape
    entry = math.prod(shape[1:]) * value.dtype.itemsize
    axes = (0,) if value.ndim > 1 and entry >= _ENTRY_BYTES else ()
    kind = ocp.options.ArrayOptions.Saving.StorageOptions
    return kind(chunk_byte_size=_CHUNK_BYTES, shard_axes=axes)


def _is_committed(path: epath.Path) -> bool:
    return not storage.is_in_bucket(path) or (path / _COMMITTED).exists()


def _template(entry: Mapping[str, Any], like: Any) -> Any:
    shape, dtype = tuple(entry["shape"]), jax.numpy.dtype(entry["dtype"])
    sharding = getattr(like, "sharding", None)
    if sharding is None or tuple(like.shape) != shape:  # the caller refuses the latter
        return np.empty(shape, dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _verify(
    path: epath.Path, arrays: Mapping[str, Any], entries: Mapping[str, Any]
) -> None:
    hashed = [name for name in arrays if "digest" in entries[name]]
    found = digests.of({name: arrays[name] for name in hashed})
    expected = {name: entries[name].get("digest") for name in arrays}
    for name in arrays:
        if name not in found:  # format 1
            found[name], expected[name] = sha(arrays[name]), entries[name]["sha256"]
        if found[name] != expected[name]:
            raise DamagedError(f"{path}: array {name!r} differs from its digest")


def _context() -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="manifest")
    context = ocp.Context()
    context.checkpointables.registry = registry
    # `read` may want the parameters alone.
    context.pytree.loading.partial_load = True
    return context
