"""Checkpoints of a training run: written whole, digested, verified when read.

One step is one folder, which Orbax writes under another name and renames:

    checkpoints/00001000/
      state/      the arrays of the state, by path ("model/blocks/up_DF")
      manifest/   JSON: step, shape, dtype and SHA-256 of every array, position in
                  the data, context (resolved config, vocabulary), its own digest

Orbax alone restores flipped bits without a word; here every array is compared
with its digest, which is of the whole array and so holds for any sharding. A
damaged step is reported and the one before it is taken. Temporary and foreign
folders are neither read nor deleted.
"""

import hashlib
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_LOGGER = logging.getLogger(__name__)
_STEP_FOLDER = re.compile(r"\d{8,}")
_FORMAT = 1
# What Orbax, TensorStore and JSON raise over damaged or missing files.
_DAMAGE = (ValueError, OSError, KeyError, TypeError, RuntimeError)


class Checkpoint(NamedTuple):
    """What one step's folder holds.

    Attributes:
      step: steps done.
      state: pytree like the one asked for, or name -> np.ndarray from `read`.
      data: the position in the data, as `get_state()` of the iterator gave it.
      context: what the run wrote beside it: resolved config, vocabulary.
    """

    step: int
    state: Any
    data: Any
    context: dict[str, Any]


class Checkpointer:
    """Saves and restores the state of one run; the only writer of its folder."""

    def __init__(
        self,
        folder: str,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        context: Mapping[str, Any] | None = None,
    ):
        """Reads nothing yet.

        Args:
          folder: where the step folders lie; made when first needed.
          keep_last: newest steps kept, at least 1.
          keep_every: steps that are multiples of it are kept for good; 0 for none.
          context: JSON values written into every checkpoint.
        """
        if keep_last < 1:
            raise ValueError(f"{keep_last=} must be at least 1")
        self._folder = pathlib.Path(folder).absolute()
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._context = dict(context or {})
        self._known: set[int] = set()  # steps that this run wrote or restored
        self._saving = None

    def save(self, step: int, state: Any, data: Any = None) -> None:
        """Starts to write a checkpoint; the state may be donated when it returns.

        Args:
          step: steps done.
          state: pytree of arrays.
          data: JSON values, the position in the data after this step.
        """
        self.wait()
        path = self._folder / f"{step:08d}"
        if path.exists():
            shutil.rmtree(path)  # damaged, or this run would have resumed behind it
        arrays = flatten(state)
        manifest = {
            "format": _FORMAT,
            "step": step,
            "arrays": {name: _describe(array) for name, array in arrays.items()},
            "data": data,
            "context": self._context,
        }
        manifest["digest"] = _digest_json(manifest)
        with _orbax_context():
            unit = {"state": arrays, "manifest": manifest}
            self._saving = ocp.save_checkpointables_async(path, unit)
        self._known.add(step)

    def wait(self) -> None:
        """Returns when the last save is on disk, then deletes what is not kept."""
        if self._saving is None:
            return
        self._saving.result()
        self._saving = None
        newest = sorted(self._known)[-self._keep_last :]
        for step in sorted(self._known - set(newest)):
            if not self._keep_every or step % self._keep_every:
                shutil.rmtree(self._folder / f"{step:08d}", ignore_errors=True)
                self._known.remove(step)

    def close(self) -> None:
        """Does what `wait` does, whatever made the run end."""
        self.wait()

    def restore(self, like: Any) -> Checkpoint | None:
        """Returns the newest step that verifies, or None if there is no step.

        Args:
          like: pytree of arrays or of `jax.ShapeDtypeStruct`, whose shardings the
            restored arrays take.

        Raises:
          ValueError: if the checkpoint is of another model, or all are damaged.
        """
        steps = list(_steps(self._folder))
        for step in steps:
            try:
                manifest = _read_manifest(self._folder / f"{step:08d}")
                _refuse_other_shapes(manifest, like, self._folder)
                arrays = _read_arrays(self._folder / f"{step:08d}", manifest)
            except DamagedError as error:
                _LOGGER.warning("checkpoint %d is not used: %s", step, error)
                continue
            self._known = {step} | {s for s in steps if s < step}
            state = unflatten(arrays, like)
            return Checkpoint(step, state, manifest["data"], manifest["context"])
        if steps:
            raise ValueError(
                f"all {len(steps)} checkpoints in {self._folder} are damaged; move "
                "the folder away to start anew"
            )
        return None


class DamagedError(ValueError):
    """A checkpoint that cannot be read or whose content is not what was written."""


def read(folder: str, step: int | None = None) -> Checkpoint:
    """Returns a run's checkpoint as named host arrays, for weights or conversion.

    Args:
      folder: of a `Checkpointer`.
      step: the step to read; the newest that verifies by default.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      DamagedError: if the named step, or every step, is damaged.
    """
    path = pathlib.Path(folder).absolute()
    steps = list(_steps(path)) if step is None else [step]
    if not steps or not (path / f"{steps[0]:08d}").exists():
        wanted = "no checkpoint" if step is None else f"no checkpoint {step}"
        raise FileNotFoundError(f"{wanted} in {folder}; run the training job first")
    damage = None
    for candidate in steps:
        try:
            manifest = _read_manifest(path / f"{candidate:08d}")
            arrays = _read_arrays(path / f"{candidate:08d}", manifest)
            context = manifest["context"]
            return Checkpoint(candidate, arrays, manifest["data"], context)
        except DamagedError as error:
            _LOGGER.warning("checkpoint %d is not used: %s", candidate, error)
            damage = error
    raise DamagedError(f"{folder}: {damage}; take an earlier checkpoint")


def flatten(state: Any) -> dict[str, Any]:
    """Returns the arrays of a pytree by path, "model/blocks/up_DF".

    Random keys become their words; the names of Flax's boxes are left out.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {name_of(path): _words(leaf) for path, leaf in leaves}


def unflatten(arrays: Mapping[str, Any], like: Any) -> Any:
    """Returns a pytree like `like` with the named arrays, placed as `like` is."""

    def place(path, leaf):
        array = arrays[name_of(path)]
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # The template's own implementation of random numbers.
            return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        return jax.device_put(array, getattr(leaf, "sharding", None))

    return jax.tree_util.tree_map_with_path(place, like)


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a leaf's path as a name, "model/blocks/up_DF"."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")


def _words(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)
    return leaf


def _describe(array: Any) -> dict[str, Any]:
    host = np.ascontiguousarray(array)
    digest = hashlib.sha256(host.view(np.uint8).data if host.ndim else host.tobytes())
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": digest.hexdigest(),
    }


def _digest_json(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _orbax_context() -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="manifest")
    context = ocp.Context()
    context.checkpointables.registry = registry
    return context


def _steps(folder: pathlib.Path) -> Iterator[int]:
    """Steps that have a folder, the newest first."""
    found = folder.iterdir() if folder.exists() else ()
    names = [path.name for path in found if path.is_dir()]
    steps = [int(name) for name in names if _STEP_FOLDER.fullmatch(name)]
    return iter(sorted(steps, reverse=True))


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        with _orbax_context():
            manifest = ocp.load_checkpointables(path, {"manifest": None})["manifest"]
        digest = manifest.pop("digest")
    except _DAMAGE as error:
        raise DamagedError(f"{path}: no whole manifest ({error})") from error
    if digest != _digest_json(manifest):
        raise DamagedError(f"{path}: the manifest's digest differs")
    if manifest["format"] != _FORMAT:
        raise ValueError(
            f"{path} has format {manifest['format']}, this program reads {_FORMAT}; "
            "update the program"
        )
    return manifest


def _read_arrays(path: pathlib.Path, manifest: dict[str, Any]) -> dict[str, Any]:
    like = {
        name: np.empty(entry["shape"], jax.numpy.dtype(entry["dtype"]))
        for name, entry in manifest["arrays"].items()
    }
    try:
        with _orbax_context():
            arrays = ocp.load_checkpointables(path, {"state": like})["state"]
    except _DAMAGE as error:
        raise DamagedError(f"{path}: arrays cannot be read ({error})") from error
    for name, entry in manifest["arrays"].items():
        if _describe(arrays[name])["sha256"] != entry["sha256"]:
            raise DamagedError(f"{path}: array {name!r} differs from its digest")
    return arrays


def _refuse_other_shapes(
    manifest: dict[str, Any], like: Any, folder: pathlib.Path
) -> None:
    shapes = lambda x: (tuple(x["shape"]), x["dtype"])
    found = {name: shapes(entry) for name, entry in manifest["arrays"].items()}
    wanted = {n: (x.shape, str(x.dtype)) for n, x in flatten(like).items()}
    differing = [
        f"{name}: there {found.get(name, 'none')}, wanted {wanted.get(name, 'none')}"
        for name in sorted(found | wanted)
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        shown = "; ".join(differing[:4])
        raise ValueError(
            f"{folder} is of another model or optimizer: {shown}"
            f" ({len(differing)} arrays differ); use another workdir"
        )
