"""What a log entry says beyond a step's own numbers: rates, memory, a profile.

Sums of losses become means, and perplexities beside them; tokens per second become the
share of the devices' peak that the model's operations use (MFU), where the peak is
known.
"""

import contextlib
import dataclasses
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import psutil

from cm3leon_jax import devices, storage
from cm3leon_jax.models import transformer
from cm3leon_jax.train import flops, guard

_LOGGER = logging.getLogger(__name__)
_GB = 1e9
_SUM, _WEIGHT = "nll_", "weight_"
_HIDDEN = (guard.HALTED, guard.BAD_ARRAY)  # `guard.Inspector` tells of them


@dataclasses.dataclass(frozen=True)
class Derive:
    """From a training entry's means to what is written.

    Attributes:
      model: whose operations a token are counted.
      length: tokens a row.
      peak_flops: FLOP/s of all devices together, or None where it is not known: then
        there is no utilisation.
    """

    model: transformer.TransformerConfig
    length: int
    peak_flops: float | None

    def __call__(self, numbers: dict[str, float]) -> dict[str, float]:
        """Returns the entry; `nll_x` and `weight_x` become loss and perplexity."""
        found = {k: v for k, v in numbers.items() if k not in _HIDDEN}
        for name in [name for name in found if name.startswith(_SUM)]:
            kind = name.removeprefix(_SUM)
            total, weight = found.pop(name), found.pop(_WEIGHT + kind)
            if weight > 0:
                found[f"loss_{kind}"] = total / weight
        found |= perplexities(found)
        rate = found.get("tokens_per_second")
        if rate is None:
            return found
        if self.peak_flops:
            found["utilisation"] = flops.utilisation(
                self.model,
                self.length,
                tokens_per_second=rate,
                peak_flops=self.peak_flops,
            )
        return found | memory()


def perplexities(numbers: dict[str, float]) -> dict[str, float]:
    """Returns `perplexity_x` for every `loss_x`."""
    return {
        f"perplexity_{name.removeprefix('loss_')}": _exp(value)
        for name, value in numbers.items()
        if name.startswith("loss_")
    }


def peak_flops(mesh: jax.sharding.Mesh) -> float | None:
    """Returns the peak FLOP/s of a mesh's devices, or None if they are not known."""
    first = mesh.devices.flat[0]
    known = devices.of_kind(first.device_kind)
    if known is None:
        return None
    # A v4 chip without megacore is two devices.
    return known.peak_flops * len({_chip(device) for device in mesh.devices.flat})


def memory() -> dict[str, float]:
    """Returns `memory_host_gb` and, where devices tell, their fullest's peak and share."""
    found = {"memory_host_gb": psutil.Process().memory_info().rss / _GB}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    if peaks:
        found["memory_device_gb"] = max(peaks) / _GB
        limits = [each["bytes_limit"] for each in stats if "bytes_limit" in each]
        if limits:
            found["memory_device_share"] = max(peaks) / min(limits)
    return found


class Profile:
    """Records some steps with `jax.profiler`, for TensorBoard or xprof."""

    def __init__(self, folder: str, first_step: int, num_steps: int):
        """Does nothing yet.

        Args:
          folder: of the trace.
          first_step: the first step that is recorded; 0 for none.
          num_steps: how many.
        """
        self._folder = folder
        self._here = folder  # where the profiler writes: it knows no buckets
        self._steps = range(first_step, first_step + num_steps if first_step else 0)
        self._is_running = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ends a recording that the run's end, of whatever kind, cut short."""
        try:
            yield
        finally:
            if self._is_running:
                self._end()

    def before(self, step: int, pending: Any) -> None:
        """Begins to record, if this is the step; `pending` is waited for first."""
        if self._steps and step == self._steps[0]:
            jax.block_until_ready(pending)
            if storage.is_in_bucket(self._folder):
                self._here = tempfile.mkdtemp(prefix="profile-")
            jax.profiler.start_trace(self._here)
            self._is_running = True

    def after(self, step: int, pending: Any) -> None:
        """Ends the recording after its last step, when the device has done it."""
        if self._is_running and step == self._steps[-1]:
            jax.block_until_ready(pending)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._is_running = False
        if self._here != self._folder:
            storage.copy(self._here, self._folder)
            shutil.rmtree(self._here)
        _LOGGER.info("a profile of steps lies in %s", self._folder)


def _chip(device: Any) -> Any:
    """What devices of one chip share: a TPU's place in the pod (and slice)."""
    place = getattr(device, "coords", None)
    if place is None:
        return device.id
    return (getattr(device, "slice_index", 0), *place)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0)) if not math.isnan(loss) else loss
