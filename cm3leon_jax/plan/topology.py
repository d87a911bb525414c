"""TPU topologies by name, and their devices without having them.

A topology is a generation and the chips along each dimension of its torus:
`v5e:16x16` is 256 chips. Names count chips and nothing else. Product names are refused:
those of v4 and v5p count TensorCores, two a chip (v5p-128 is 64 chips, v5p:4x4x4).

A v4 chip shows as two devices with half the memory each where megacore is off. Plans
have it on, one device a chip, as training on Cloud TPU has it by default.
"""

import dataclasses
import difflib
import math
import re
from typing import Any

from cm3leon_jax import devices

_NAME = re.compile(r"^(v[0-9]+[a-z]?):([0-9]+(?:x[0-9]+)*)$")
_PRODUCT = re.compile(r"^(v[0-9]+(?:e|p|litepod)?)-([0-9]+)$")
_CORES_A_CHIP = {"v4": 2, "v5p": 2}  # in product names
_MEGACORE = {"v4": {"chip_config_name": "megacore"}}
# Slices that can be had: cloud.google.com/tpu/docs/v5e and v6e list them all; of v4 and
# v5p the usual ones up to 4,096 chips.
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1",
    "2x2x2",
    "2x2x4",
    "2x4x4",
    "4x4x4",
    "4x4x8",
    "4x8x8",
    "8x8x8",
    "8x8x16",
    "8x16x16",
    "16x16x16",
)
KNOWN = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of a pod.

    Attributes:
      name: "v5e:16x16".
      device: its chip.
      shape: chips along each dimension of the torus.
    """

    name: str
    device: devices.Device
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """All of them."""
        return math.prod(self.shape)


def parse(name: str) -> Topology:
    """Returns the topology of a name.

    Raises:
      ValueError: if the name is of no known slice, with the nearest that is.
    """
    product = _PRODUCT.match(name)
    if product:
        raise ValueError(_explain_product(*product.groups()))
    match = _NAME.match(name)
    generation, _, layout = name.partition(":")
    if match is None or generation not in KNOWN or layout not in KNOWN[generation]:
        raise ValueError(
            f"topology={name!r} is not a known slice; did you mean"
            f" {_nearest(name)!r}? known: {_listed()}"
        )
    shape = tuple(int(size) for size in layout.split("x"))
    return Topology(name, devices.named(generation), shape)


def chips(topology: Topology) -> list[Any]:
    """Returns one device (`jax.Device`) a chip, to compile for; they run nothing.

    Raises:
      ValueError: if libtpu is not installed (extra `tpu`).
    """
    from jax.experimental import topologies

    generation = topology.name.partition(":")[0]
    try:
        found = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology.name,
            **_MEGACORE.get(generation, {}),
        )
    except (RuntimeError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"cannot compile for {topology.name}: {_first_line(error)}; libtpu is"
            " needed: pip install 'cm3leon-jax[tpu]'"
        ) from error
    if len(found.devices) != topology.num_chips:
        raise ValueError(
            f"libtpu shows {len(found.devices)} devices for the"
            f" {topology.num_chips} chips of {topology.name}"
        )
    return list(found.devices)


def _nearest(name: str) -> str:
    """The known slice that a mistaken name most likely means."""
    generation, _, layout = name.partition(":")
    near = difflib.get_close_matches(generation, KNOWN, n=1, cutoff=0.0)[0]
    sizes = [int(size) for size in re.findall(r"\d+", layout)]
    wanted = math.prod(sizes) if sizes else 256

    def distance(known: str) -> float:
        """How many times more or fewer chips a layout has, as a logarithm."""
        count = math.prod(int(size) for size in known.split("x"))
        return abs(math.log(count / max(wanted, 1)))

    return f"{near}:{min(KNOWN[near], key=distance)}"


def _explain_product(generation: str, number: str) -> str:
    generation = generation.replace("litepod", "e")
    cores = _CORES_A_CHIP.get(generation, 1)
    num_chips = max(1, int(number) // cores)
    meaning = f"counts TensorCores: {num_chips} chips" if cores > 1 else "is a product"
    near = _nearest(f"{generation}:{num_chips}")
    return (
        f"topology={generation}-{number} {meaning}; name the topology instead, the"
        f" nearest is {near!r}"
    )


def _listed() -> str:
    return "; ".join(f"{key}: {', '.join(sizes)}" for key, sizes in KNOWN.items())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
