"""How long a step takes at the least, and at a guess, on given devices.

    products   arithmetic of products at the rate that large products reach, or their
               traffic through main memory, whichever is slower
    others     traffic of everything else through main memory; nothing overlaps it
    links      what is sent over the links, overlapped with both

    seconds = max(products + others, links)

What it leaves out: the start of a step, waiting for data, links that are shared
unevenly, tiles that do not fill the matrix unit. It is an estimate of a step that is
well put together, and a bound for no step.
"""

import dataclasses
import math

from cm3leon_jax import devices
from cm3leon_jax.plan.collectives import Collective
from cm3leon_jax.plan.traffic import Traffic


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step, by what takes them.

    Attributes:
      arithmetic: of products, on their own.
      products: of products, their traffic included.
      others: of all other operations.
      links: of collectives.
    """

    arithmetic: float
    products: float
    others: float
    links: float

    @property
    def seconds(self) -> float:
        """Of the step."""
        return max(self.products + self.others, self.links)

    @property
    def limit(self) -> str:
        """What takes the longest: "arithmetic", "memory" or "links"."""
        if self.links > self.products + self.others:
            return "links"
        return "arithmetic" if self.arithmetic > self.seconds / 2 else "memory"


def estimate(
    device: devices.Device,
    *,
    flops: float,
    traffic: Traffic,
    collectives: list[Collective],
    shape: tuple[int, ...] = (),
) -> Roofline:
    """Returns the estimate for a step.

    Args:
      device: one chip.
      flops: operations that one chip executes in a step, what is computed again
        included.
      traffic: of one chip in a step.
      collectives: of one chip in a step.
      shape: chips along each dimension of the torus; () for devices behind a switch.
    """
    rate = device.peak_flops * device.product_share
    memory = device.memory_bandwidth * device.memory_share
    arithmetic = flops / rate
    return Roofline(
        arithmetic=arithmetic,
        products=max(arithmetic, traffic.products / memory),
        others=traffic.others / memory,
        links=sum(
            one.sent_bytes / bandwidth(device, one.group, shape) for one in collectives
        ),
    )


def bandwidth(device: devices.Device, group: int, shape: tuple[int, ...]) -> float:
    """Returns bytes/s that one chip sends in a collective among `group` chips.

    A group takes the links of as many dimensions of the torus as it needs, the shortest
    ones first, and both directions of each where the dimension closes to a ring.

        v5e, 4 links of 50 GB/s, shape (16, 16)    group 256: 200 GB/s, group 16: 100
        v5e, shape (4, 4), no ring                 group 16: 100 GB/s

    Args:
      device: one chip.
      group: chips that take part together.
      shape: chips along each dimension of the torus; () for devices behind a switch.
    """
    if not device.torus_dims or not shape:
        return device.link_bandwidth
    a_dimension = device.link_bandwidth / device.torus_dims
    total, covered = 0.0, 1
    for size in sorted(size for size in shape if size > 1):
        if covered >= group:
            break
        covered *= size
        total += a_dimension * (1.0 if size >= device.ring_length else 0.5)
    return total or a_dimension


def cost(
    tokens: float, *, tokens_per_step: int, seconds: float, num_chips: int
) -> dict[str, float]:
    """Returns what a run of so many tokens takes.

    Args:
      tokens: of the run.
      tokens_per_step: of one step, of all chips.
      seconds: of one step.
      num_chips: that the run has.

    Returns:
      "steps", "days" and "chip_hours".
    """
    steps = math.ceil(tokens / tokens_per_step)
    hours = steps * seconds / 3600
    return {"steps": steps, "days": hours / 24, "chip_hours": hours * num_chips}
