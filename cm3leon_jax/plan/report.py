"""A plan as JSON values and as a table that a person reads.

plan.json   topology, settings, memory, collectives, flops, roofline, run, search
"""

import dataclasses
from typing import Any

from cm3leon_jax import devices
from cm3leon_jax.models import transformer
from cm3leon_jax.plan import collectives, roofline
from cm3leon_jax.plan.compiler import Compiled
from cm3leon_jax.train import flops, program

_GIB, _GB, _TERA = 2**30, 1e9, 1e12


@dataclasses.dataclass(frozen=True)
class Run:
    """What is planned.

    Attributes:
      name: of the devices: a topology, or "here".
      device: one of them.
      shape: chips along each dimension of the torus; () for others.
      num_devices: all of them.
      model: its shape.
      num_rows: of a step.
      length: tokens a row.
      tokens: of the whole run.
    """

    name: str
    device: devices.Device
    shape: tuple[int, ...]
    num_devices: int
    model: transformer.TransformerConfig
    num_rows: int
    length: int
    tokens: float

    @property
    def tokens_per_step(self) -> int:
        """Of all devices together."""
        return self.num_rows * self.length


def build(run: Run, compiled: Compiled) -> dict[str, Any]:
    """Returns the plan of a compiled step, as JSON values."""
    fits = compiled.memory is not None and compiled.peak <= run.device.memory_bytes
    a_token = flops.per_token(run.model, run.length)
    model_flops = a_token.training * run.tokens_per_step
    found: dict[str, Any] = {
        "topology": run.name,
        "num_devices": run.num_devices,
        "device": _device(run.device),
        "parameters": program.num_parameters(run.model),
        "rows_per_step": run.num_rows,
        "tokens_per_step": run.tokens_per_step,
        "fits": fits,
        "memory": _memory(run, compiled),
        "flops": {
            "model_per_token": a_token.training,
            "model_per_step": model_flops,
            "executed_per_step": compiled.work.total,
        },
        "compile_seconds": round(compiled.seconds, 1),
        "compile_cpu_seconds": round(compiled.cpu_seconds, 1),
    }
    if compiled.memory is None or compiled.traffic is None:
        return found
    estimate = roofline.estimate(
        run.device,
        flops=compiled.work.total / run.num_devices,
        traffic=compiled.traffic,
        collectives=compiled.collectives,
        shape=run.shape,
    )
    return found | {
        "collectives": [dataclasses.asdict(one) for one in compiled.collectives],
        "sent_bytes": collectives.by_kind(compiled.collectives),
        "traffic": dataclasses.asdict(compiled.traffic),
        "roofline": dataclasses.asdict(estimate)
        | {"seconds": estimate.seconds, "limit": estimate.limit},
        "speed": speed(run, estimate.seconds),
        "run": roofline.cost(
            run.tokens,
            tokens_per_step=run.tokens_per_step,
            seconds=estimate.seconds,
            num_chips=run.num_devices,
        )
        | {"tokens": run.tokens},
    }


def speed(run: Run, seconds: float) -> dict[str, float]:
    """Returns the rates of a step that takes so long, and its utilisation (MFU)."""
    rate = run.tokens_per_step / seconds
    peak = run.device.peak_flops * run.num_devices
    return {
        "tokens_per_second": rate,
        "tokens_per_second_per_device": rate / run.num_devices,
        "utilisation": flops.utilisation(
            run.model, run.length, tokens_per_second=rate, peak_flops=peak
        ),
    }


def table(plan: dict[str, Any]) -> str:
    """Returns a plan as lines for a terminal."""
    return "\n".join(f"{name:<24} {text}" for name, text in _lines(plan).items())


def _lines(plan: dict[str, Any]) -> dict[str, str]:
    memory, counted = plan["memory"], plan["flops"]
    lines = {
        "topology": f"{plan['topology']}, {plan['num_devices']} devices",
        "parameters": f"{plan['parameters']:,}",
        "rows a step": f"{plan['rows_per_step']:,}",
        "tokens a step": f"{plan['tokens_per_step']:,}",
    }
    for name in ("arguments", "temporary", "peak", "available"):
        if memory[name] is not None:
            lines[f"memory, {name}"] = f"{memory[name] / _GIB:.2f} GiB a device"
    lines["fits"] = "yes" if plan["fits"] else "no"
    for kind, sent in plan.get("sent_bytes", {}).items():
        lines[f"sent, {kind}"] = f"{sent / _GB:.2f} GB a device and step"
    executed = counted["executed_per_step"] / counted["model_per_step"]
    lines["model FLOPs a step"] = f"{counted['model_per_step']:.3e}"
    lines["executed"] = f"{executed:.2f} times the model's"
    if "roofline" in plan:
        lines |= _cost_lines(plan)
    cpu = plan["compile_cpu_seconds"]
    return lines | {"compiled in": f"{plan['compile_seconds']} s, {cpu} CPU s"}


def _cost_lines(plan: dict[str, Any]) -> dict[str, str]:
    bound, rates, cost = plan["roofline"], plan["speed"], plan["run"]
    names = ("arithmetic", "products", "others", "links")
    parts = ", ".join(f"{name} {bound[name]:.3f}" for name in names)
    each = rates["tokens_per_second_per_device"]
    days = f"{cost['days']:.1f} days, {cost['chip_hours']:,.0f} chip-hours"
    return {
        "a step, estimated": f"{bound['seconds']:.3f} s ({bound['limit']}: {parts})",
        "tokens a second": f"{rates['tokens_per_second']:,.0f}, a device {each:,.0f}",
        "utilisation (MFU)": f"{rates['utilisation']:.1%}",
        f"{cost['tokens'] / _TERA:.3g}T tokens": f"{cost['steps']:,} steps, {days}",
    }


def _memory(run: Run, compiled: Compiled) -> dict[str, float | None]:
    names = ("arguments", "outputs", "temporary", "code")
    memory = compiled.memory
    parts = {name: getattr(memory, name) if memory else None for name in names}
    return parts | {"peak": compiled.peak, "available": run.device.memory_bytes}


def _device(device: devices.Device) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(device).items() if k != "kinds"}
