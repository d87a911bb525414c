"""Checkpoints of a training run: written whole, digested, verified when read.

One step is one folder (`unit`), which Orbax writes under another name and renames:

    checkpoints/00001000/
      state/      the arrays of the state, by path ("model/blocks/up_DF")
      manifest/   JSON: step, shape, dtype and digest of every array, position in the
                  data, metrics, context (resolved config, vocabulary, random key), its
                  own digest

Orbax alone restores flipped bits without a word; here every array is compared with its
digest (`digests`), which holds under any sharding: a run goes on with another number of
devices or hosts. A damaged step is reported and the one before it is taken. Temporary
and foreign folders are neither read nor deleted.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from cm3leon_jax import storage
from cm3leon_jax.train import hosts, unit
from cm3leon_jax.train.unit import DamagedError

_LOGGER = logging.getLogger(__name__)
ON_ERROR = ("stop", "continue")
# A save that waits longer than both for the one before is late: a share of the time
# between the two, and seconds.
_LATE_SHARE, _LATE_SECONDS = 0.05, 1.0


class Checkpoint(NamedTuple):
    """What one step's folder holds.

    Attributes:
      step: steps done.
      state: pytree like the one asked for, or name -> array from `read`.
      data: the position in the data, as `get_state()` of the iterator gave it.
      context: what the run wrote beside it: resolved config, vocabulary.
      metrics: numbers of an evaluation of this very state, if there was one.
      log: numbers of steps before this one that no entry of the log has yet.
    """

    step: int
    state: Any
    data: Any
    context: dict[str, Any]
    metrics: Mapping[str, float]
    log: Any


class SaveError(OSError):
    """A checkpoint that could not be written; those before it are as they were."""


class Checkpointer:
    """Saves and restores the state of one run; the only writer of its folder."""

    def __init__(
        self,
        folder: str,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        best_metric: str = "",
        is_highest_best: bool = False,
        on_error: str = "stop",
        context: Mapping[str, Any] | None = None,
    ):
        """Reads nothing yet.

        Args:
          folder: where the step folders lie, a path or a bucket; made when first
            needed.
          keep_last: newest steps kept, at least 1.
          keep_every: steps that are multiples of it are kept for good; 0 for none.
          best_metric: the step that is best by this of its metrics is kept too; "" for
            none.
          is_highest_best: whether the highest is the best, not the lowest.
          on_error: what a save that fails does, "stop" the run or "continue" without
            that step, counting it. Several hosts always stop: the others would wait.
          context: JSON values written into every checkpoint.
        """
        if keep_last < 1:
            raise ValueError(f"{keep_last=} must be at least 1")
        if on_error not in ON_ERROR:
            raise ValueError(f"{on_error=} must be one of {ON_ERROR}")
        self._folder = storage.place(folder)
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._best_metric = best_metric
        self._sign = -1.0 if is_highest_best else 1.0
        self._on_error = on_error
        self._context = dict(context or {})
        self._known: dict[int, Mapping[str, float]] = {}  # written or restored here
        self._saving: tuple[int, Any] | None = None
        self.last_step: int | None = None  # the newest that is safely on disk
        self.num_failed = 0  # saves that failed and were gone on from
        self.num_late = 0  # saves that had to wait for the one before
        self._began = 0.0  # seconds, when the last save did
        self.stall_seconds = 0.0  # that the caller of `save` and `wait` waited, in all

    def save(
        self,
        step: int,
        state: Any,
        data: Any = None,
        metrics: Mapping[str, float] | None = None,
        log: Any = None,
    ) -> None:
        """Starts to write a checkpoint; the state may be donated when it returns.

        Args:
          step: steps done.
          state: pytree of arrays.
          data: JSON values, the position in the data after this step.
          metrics: finite numbers of this state, for `best_metric`.
          log: JSON values, see `Checkpoint`.

        Raises:
          SaveError: if this or the last save failed, unless `on_error` is "continue".
        """
        start = time.perf_counter()
        self.wait()
        self._notice_late(step, time.perf_counter() - start)
        start = self._began = time.perf_counter()
        path = unit.folder(self._folder, step)
        self._remove(step)  # damaged, or this run would have resumed behind it
        arrays = flatten(state)
        about = {
            "step": step,
            "data": data,
            "metrics": {name: float(x) for name, x in (metrics or {}).items()},
            "log": log,
            "context": self._context,
        }
        manifest = unit.make_manifest(arrays, about)
        begin = lambda: unit.write(path, arrays, manifest)
        response = self._attempt(step, begin)
        if response is not None:
            self._saving = (step, response)
            self._known[step] = about["metrics"]
        self.stall_seconds += time.perf_counter() - start

    def wait(self) -> None:
        """Returns when the last save is on disk, then deletes what is not kept.

        Raises:
          SaveError: if it failed, unless `on_error` is "continue".
        """
        if self._saving is None:
            return
        start = time.perf_counter()
        step, response = self._saving
        self._saving = None
        finish = lambda: response.result() or True
        if self._attempt(step, finish):
            self.last_step = step
            for old in sorted(self._known.keys() - self._kept()):
                self._remove(old)
                del self._known[old]
        self.stall_seconds += time.perf_counter() - start

    def close(self) -> None:
        """Does what `wait` does, whatever made the run end."""
        self.wait()

    def restore(self, like: Any) -> Checkpoint | None:
        """Returns the newest step that verifies, or None if there is no step.

        Args:
          like: pytree of arrays or of `jax.ShapeDtypeStruct`, whose shardings the
            restored arrays take, whatever those were that were saved.

        Raises:
          ValueError: if the checkpoint is of another model, or all are damaged.
        """
        found = unit.steps(self._folder)
        for step in found:
            path = unit.folder(self._folder, step)
            try:
                manifest = unit.read_manifest(path)
                unit.refuse_other_shapes(manifest, flatten(like), path)
                arrays = unit.read_arrays(path, manifest, flatten(like))
            except DamagedError as error:
                _LOGGER.warning("checkpoint %d is not used: %s", step, error)
                continue
            self._known = {s: self._metrics_of(s) for s in found if s <= step}
            self.last_step = step
            return _checkpoint(step, unflatten(arrays, like), manifest)
        if found:
            raise ValueError(
                f"all {len(found)} checkpoints in {self._folder} are damaged; move "
                "the folder away to start anew"
            )
        return None

    def is_empty(self) -> bool:
        """Whether there is no step to restore, not even a damaged one."""
        return not unit.steps(self._folder)

    def _notice_late(self, step: int, waited: float) -> None:
        """Counts and tells of a save that waited, in seconds, for the one before."""
        between = time.perf_counter() - self._began
        if waited > max(_LATE_SECONDS, _LATE_SHARE * between):
            self.num_late += 1
            _LOGGER.warning(
                "checkpoint %d waited %.1f of %.1f s for the one before to be written;"
                " %d saves late: save less often, or to a faster disk",
                step,
                waited,
                between,
                self.num_late,
            )

    def _attempt(self, step: int, action: Callable[[], Any]) -> Any:
        """Runs a part of a save; None if it failed and the run goes on."""
        try:
            return action()
        except unit.FAULTS as error:
            self._known.pop(step, None)
            self.num_failed += 1
            reason = (
                f"checkpoint {step} could not be written to {self._folder}: {error}"
            )
            if self._on_error == "stop" or jax.process_count() > 1:
                raise SaveError(
                    f"{reason}; free the disk or mend the folder, and start again"
                ) from error
            _LOGGER.error("%s; going on, %d saves lost", reason, self.num_failed)
            return None

    def _kept(self) -> set[int]:
        """The known steps that the rules keep."""
        steps = sorted(self._known)
        kept = set(steps[-self._keep_last :])
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        judged = [step for step in steps if self._best_metric in self._known[step]]
        if judged:
            value = lambda step: self._sign * self._known[step][self._best_metric]
            kept.add(min(judged, key=value))
        return kept

    def _metrics_of(self, step: int) -> Mapping[str, float]:
        if not self._best_metric:
            return {}
        try:
            manifest = unit.read_manifest(unit.folder(self._folder, step))
        except DamagedError:
            return {}
        return _checkpoint(step, None, manifest).metrics

    def _remove(self, step: int) -> None:
        path = unit.folder(self._folder, step)
        if hosts.is_first() and path.exists():
            unit.remove(path)
        hosts.wait()


def read(
    folder: str,
    step: int | None = None,
    *,
    prefix: str = "",
    like: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Returns a run's checkpoint as named arrays, for weights or conversion.

    Args:
      folder: of a `Checkpointer`.
      step: the step to read; the newest that verifies by default.
      prefix: only arrays whose names begin so; the others are not read.
      like: name -> `jax.ShapeDtypeStruct` (or array) whose sharding the array takes;
        the others come as np.ndarrays.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      DamagedError: if the named step, or every step, is damaged.
    """

    def take(place: epath.Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name in manifest["arrays"] if name.startswith(prefix)]
        wanted = {name: (like or {}).get(name) for name in names}
        return unit.read_arrays(place, manifest, wanted)

    return newest(folder, take, step)


def newest(
    folder: str,
    take: Callable[[epath.Path, Mapping[str, Any]], Any],
    step: int | None = None,
) -> Checkpoint:
    """Returns the newest checkpoint that verifies, its state as `take` reads it.

    Args:
      folder: of a `Checkpointer`.
      take: from a step's folder and manifest to what is wanted of its arrays; raises
        DamagedError where those differ from what was written.
      step: as for `read`, which raises the same.
    """
    path = storage.place(folder)
    found = unit.steps(path)
    steps = found if step is None else [step]
    if not steps or steps[0] not in found:
        wanted = "no checkpoint" if step is None else f"no checkpoint {step}"
        raise FileNotFoundError(f"{wanted} in {folder}; run the training job first")
    damage = None
    for candidate in steps:
        place = unit.folder(path, candidate)
        try:
            manifest = unit.read_manifest(place)
            return _checkpoint(candidate, take(place, manifest), manifest)
        except DamagedError as error:
            _LOGGER.warning("checkpoint %d is not used: %s", candidate, error)
            damage = error
    raise DamagedError(f"{folder}: {damage}; take an earlier checkpoint")


def best_step(folder: str, metric: str, *, is_highest_best: bool = False) -> int:
    """Returns the step that is best by a metric, among those that have it.

    Raises:
      FileNotFoundError: if no checkpoint has it.
    """
    path = storage.place(folder)
    judged = {}
    for step in unit.steps(path):
        try:
            manifest = unit.read_manifest(unit.folder(path, step))
        except DamagedError as error:
            _LOGGER.warning("checkpoint %d is not used: %s", step, error)
            continue
        metrics = _checkpoint(step, None, manifest).metrics
        if metric in metrics:
            judged[step] = metrics[metric]
    if not judged:
        raise FileNotFoundError(
            f"no checkpoint in {folder} was evaluated by {metric!r}; make loop.save_every"
            " a divisor of loop.eval_every"
        )
    return (max if is_highest_best else min)(judged, key=lambda step: judged[step])


def flatten(state: Any) -> dict[str, Any]:
    """Returns the arrays of a pytree by path, "model/blocks/up_DF".

    Random keys become their words; the names of Flax's boxes are left out.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {name_of(path): _words(leaf) for path, leaf in leaves}


def unflatten(arrays: Mapping[str, Any], like: Any) -> Any:
    """Returns a pytree like `like` with the named arrays, placed as `like` is."""

    def place(path, leaf):
        """The named array as the template's leaf has it."""
        array = arrays[name_of(path)]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # The template's own implementation of random numbers.
            return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        sharding = getattr(leaf, "sharding", None)
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        return jax.device_put(array, sharding)

    return jax.tree_util.tree_map_with_path(place, like)


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a leaf's path as a name, "model/blocks/up_DF"."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")


def _words(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)
    return leaf


def _checkpoint(step: int, state: Any, manifest: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        step=step,
        state=state,
        data=manifest["data"],
        context=manifest["context"],
        metrics=manifest.get("metrics", {}),  # format 1 had neither
        log=manifest.get("log"),
    )
