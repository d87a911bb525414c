"""Which settings would make a step fit: estimated for all, in order of their time.

Settings that only trade memory for time are tried: what the backward pass computes
again (`remat`), pieces of the batch (`num_microbatches`), and how many devices share
the width (`tensor`). The estimate needs a trace of the step, no compilation:

    arguments      parameters, moments and rows, cut as the sharding says
    gradients      float32, as parameters; twice with microbatches
    saved          what the forward scan over the layers hands to the backward one, and
                   half as much again where that is several arrays: their copies in
                   another layout (350M, "dots", v5e: 13.1 GiB compiled, 9.4 without)
    layer | head   the larger of: one layer's weights, gradients and activations; one
                   chunk of logits with its table and the table's gradient

It is rough (`MARGIN`); what it proposes is compiled before anything is claimed.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from cm3leon_jax import devices, sharding
from cm3leon_jax.models import transformer
from cm3leon_jax.plan import work
from cm3leon_jax.train import flops, step

MARGIN = 0.9  # of a device's memory: what an estimate may fill
_FLOAT32, _BFLOAT16 = 4, 2
# Of one layer's backward pass, in bytes a token and unit of model and MLP width: the
# residual stream and norms in float32, products' results and gradients in bfloat16.
_BYTES_A_WIDTH, _BYTES_AN_MLP_WIDTH = 36, 4
_LAYERS_AT_A_TIME = 2  # weights of the next layer are gathered early
_COPIES_OF_SEVERAL = 1.5
_MIB = 2**20
_LOGIT_COPIES = 3  # logits, their exponentials, their gradient


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the search changes.

    Attributes:
      remat: name of a policy.
      num_microbatches: pieces of a step's batch.
      tensor: devices that share the width; the rest of them share rows and parameters.
    """

    remat: str
    num_microbatches: int
    tensor: int

    def __str__(self) -> str:
        """As the overrides of a config."""
        return (
            f"model.remat={self.remat} step.num_microbatches={self.num_microbatches}"
            f" mesh.tensor={self.tensor}"
        )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting with its estimates.

    Attributes:
      setting: what is changed.
      bytes: estimated, of one device.
      seconds: estimated, of a step: arithmetic, and what is sent if that is slower.
      rows: that one device computes at a time.
    """

    setting: Setting
    bytes: float
    seconds: float
    rows: float


def settings(
    *,
    num_rows: int,
    num_devices: int,
    remats: Iterable[str],
    tensors: Iterable[int],
    num_heads: int,
) -> list[Setting]:
    """Returns all settings whose rows and heads divide among the devices."""
    found = []
    for remat, tensor in itertools.product(remats, tensors):
        if num_devices % tensor or num_heads % tensor:
            continue
        shares = num_devices // tensor
        if num_rows % shares:
            continue
        most = num_rows // shares
        found += [
            Setting(remat, pieces, tensor)
            for pieces in range(1, most + 1)
            if most % pieces == 0
        ]
    return found


def rank(candidates: Iterable[Candidate], memory_bytes: float) -> list[Candidate]:
    """Returns those that should fit, the fastest first; of equals the simplest."""
    fitting = [one for one in candidates if one.bytes <= MARGIN * memory_bytes]
    return sorted(
        fitting,
        key=lambda one: (
            round(one.seconds, 3),
            one.setting.tensor,
            one.setting.num_microbatches,
        ),
    )


def estimate(
    setting: Setting,
    trace: Callable[[Setting], Any],
    *,
    model: transformer.TransformerConfig,
    config: step.StepConfig,
    device: devices.Device,
    num_devices: int,
    num_rows: int,
    length: int,
) -> Candidate:
    """Returns a setting's estimated memory and time.

    Args:
      setting: what is changed.
      trace: gives the traced step of a setting (`compiler.trace`) on a mesh of one
        device, whose shapes are those of one microbatch for all devices.
      model: its shape.
      config: of the step, for `chunk_mib`.
      device: one chip.
      num_devices: that share the work.
      num_rows: of a step.
      length: tokens a row.
    """
    traced = trace(setting)
    shares = num_devices // setting.tensor
    parameters = parameter_bytes(traced)
    rows = num_rows / shares / setting.num_microbatches
    tokens = rows * length
    layer = flops.layer_weights(model) / setting.tensor
    head = model.vocab_size * model.model_dim / setting.tensor
    of_layer = _LAYERS_AT_A_TIME * layer * (_BFLOAT16 + _FLOAT32) + tokens * (
        _BYTES_A_WIDTH * model.model_dim
        + _BYTES_AN_MLP_WIDTH * model.mlp_dim / setting.tensor
    )
    of_head = _LOGIT_COPIES * config.chunk_mib * _MIB + head * (_BFLOAT16 + _FLOAT32)
    copies = 2 if setting.num_microbatches > 1 else 1
    total = (
        sharded_bytes(traced) / num_devices
        + copies * parameters / num_devices
        + saved_bytes(traced.jaxpr, model.num_layers) / shares
        + max(of_layer, of_head)
    )
    arithmetic = work.count(traced.jaxpr).total / num_devices
    # Weights are gathered forward and back, gradients summed, in every microbatch.
    sent = (
        setting.num_microbatches
        * (2 * _BFLOAT16 + _FLOAT32)
        * (layer * model.num_layers + head)
    )
    seconds = max(
        arithmetic / (device.peak_flops * device.product_share),
        sent / device.link_bandwidth,
    )
    return Candidate(setting, total, seconds, rows)


def saved_bytes(jaxpr: Any, num_layers: int) -> float:
    """Returns what scans over the layers stack up for their backward pass, in bytes.

    Of all devices together, in one microbatch; 0 where layers are not scanned.

    Args:
      jaxpr: of the traced step.
      num_layers: turns of such a scan.
    """
    sizes: list[float] = []
    for equation in _equations(jaxpr):
        params = equation.params
        if equation.primitive.name != "scan" or params["length"] != num_layers:
            continue
        if not params["reverse"]:
            stacked = equation.outvars[params["num_carry"] :]
            sizes += [_bytes(variable.aval) for variable in stacked]
    return sum(sizes) * (_COPIES_OF_SEVERAL if len(sizes) > 1 else 1)


def sharded_bytes(traced: Any) -> float:
    """Returns the bytes of a traced step's arguments, of all devices together."""
    return sum(map(_bytes, jax.tree.leaves(traced.in_avals)))


def parameter_bytes(traced: Any) -> float:
    """Returns the bytes of the parameters among a traced step's arguments."""
    (now, _), _ = traced.in_avals
    return sum(map(_bytes, jax.tree.leaves(now.model)))


def mesh_config(setting: Setting, base: sharding.MeshConfig) -> sharding.MeshConfig:
    """Returns a mesh with a setting's tensor axis, the rest of the devices in fsdp."""
    return dataclasses.replace(base, fsdp=-1, tensor=setting.tensor)


def _bytes(aval: Any) -> float:
    return aval.size * aval.dtype.itemsize


def _equations(jaxpr: Any) -> Iterator[Any]:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation
        for inner in work.inner_jaxprs(equation.params):
            yield from _equations(inner)
