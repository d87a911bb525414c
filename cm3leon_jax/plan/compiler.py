"""Compiles a training step for devices that may not be there, and reads what it needs.

Shapes only: no array is made. A program that does not fit is refused by the compiler of
TPUs; what it would have needed is read from the refusal.
"""

import dataclasses
import re
import time
from typing import Any

import jax

from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.plan import collectives, hlo, traffic, work
from cm3leon_jax.train import program as program_lib

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = (
    re.compile(r"temporaries \(([\d.]+)([BKMGT])\)"),
    re.compile(r"Used ([\d.]+)([BKMGT]) of"),
    re.compile(r"Total hbm usage >= ([\d.]+)([BKMGT])"),
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      arguments: parameters, moments, batch.
      outputs: new state and metrics, those in the arguments' place not counted.
      temporary: set aside for everything else.
      code: of the program itself.
      peak: of all of it, at the program's worst moment, as the compiler says; less
        than the sum, where temporary arrays take each other's place.
    """

    arguments: float
    outputs: float
    temporary: float
    code: float
    peak: float


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiled step needs and does; on one device unless it says otherwise.

    Attributes:
      memory: None if the compiler refused it.
      needed: bytes that it needs at least, if the compiler refused it.
      work: operations that it executes, of all devices together.
      collectives: what it sends; empty if refused.
      traffic: through main memory; None if refused.
      text: of the compiled program; "" if refused.
      executable: to call, `(state, batch) -> (state, metrics)`; None if refused.
      seconds: that compiling took.
      cpu_seconds: of the processor, that compiling took.
    """

    memory: Memory | None
    needed: float | None
    work: work.Work
    collectives: list[collectives.Collective]
    traffic: traffic.Traffic | None
    text: str
    executable: Any
    seconds: float
    cpu_seconds: float

    @property
    def peak(self) -> float:
        """Bytes that it needs: of the compiled program, or as the refusal says."""
        return self.memory.peak if self.memory else self.needed or 0.0


def trace(program: program_lib.Program, batch: Batch) -> Any:
    """Returns the traced step (`jax.stages.Traced`)."""
    return program.step.trace(program.shapes, batch)


def compile_step(
    program: program_lib.Program, batch: Batch, platform: str | None = None
) -> Compiled:
    """Compiles the step and reads its accounts.

    Args:
      program: the step on its mesh.
      batch: shapes of a global batch, from `program.batch_shapes`.
      platform: "tpu" for a topology without its devices; None for the devices here.

    Raises:
      jax.errors.JaxRuntimeError: if compiling fails for another reason than memory.
    """
    since, cpu_since = time.perf_counter(), time.process_time()
    traced = trace(program, batch)
    executed = work.count(traced.jaxpr)
    platforms = (platform,) if platform else None
    found, needed = None, None
    try:
        found = traced.lower(lowering_platforms=platforms).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
    took = time.perf_counter() - since, time.process_time() - cpu_since
    if found is None:
        return Compiled(None, needed, executed, [], None, "", None, *took)
    text = found.as_text() or ""
    module = hlo.parse(text)
    return Compiled(
        memory=_memory(found.memory_analysis()),
        needed=None,
        work=executed,
        collectives=collectives.find(module, program.mesh.size),
        traffic=traffic.find(module),
        text=text,
        executable=found,
        seconds=took[0],
        cpu_seconds=took[1],
    )


def needed_bytes(message: str) -> float | None:
    """Returns the bytes that a refusal says are needed, or None if it is about others.

    "... HLO temporaries (292.04G) exceeds available HBM (15.75G)" gives 292.04 GiB.
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for pattern in _NEEDED:
        match = pattern.search(message)
        if match:
            return float(match.group(1)) * _UNITS[match.group(2)]
    return None


def _memory(stats: Any) -> Memory:
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        peak=stats.peak_memory_in_bytes,
    )
