"""Bytes that a compiled program sends between devices, by kind of collective.

Counted is what one device sends in one run of the program with a ring's algorithm, for
an operand of n bytes on each of g devices:

    all-gather           n (g - 1)       its part goes to all others
    reduce-scatter       n (g - 1) / g
    all-reduce         2 n (g - 1) / g   both of them
    all-to-all           n (g - 1) / g
    collective-permute   n

Loops count by their trips. A TPU writes a reduce-scatter as a fusion of an all-reduce
and the slice that is kept, named `all-reduce-scatter`. It carries one collective through several fusions in
pieces; they share a chain and count once.
"""

import collections
import dataclasses
import math
import re

from cm3leon_jax.plan import hlo

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)
_SCATTER_FUSION = "all-reduce-scatter"
_CHAIN = re.compile(r'chain_id="(\d+)"')
_NAMED_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind among groups of one size.

    Attributes:
      kind: one of `KINDS`.
      group: devices that take part together.
      count: how many run in one run of the program.
      sent_bytes: that one device sends in one run of the program.
    """

    kind: str
    group: int
    count: float
    sent_bytes: float


def find(module: hlo.Module, num_devices: int) -> list[Collective]:
    """Returns the program's collectives, the most bytes first.

    Args:
      module: of a compiled program.
      num_devices: that run it; the group where the program names none.
    """
    times: dict[str, float] = {}
    ones: dict[str, tuple[str, int, float]] = {}
    for instruction, runs, where in module.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        if where.startswith(_SCATTER_FUSION):
            kind = "reduce-scatter"
        chain = _CHAIN.search(instruction.attributes)
        name = f"chain {chain.group(1)}" if chain else f"{where} {instruction.name}"
        group = group_size(instruction.attributes, num_devices)
        sent = _sent(kind, _operand_bytes(instruction, module, where), group)
        # A piece of a chain may lie in a loop beside it: the chain runs as often as
        # its rarest piece.
        times[name] = min(runs, times[name]) if name in times else runs
        ones[name] = (kind, group, sent)
    counts: dict[tuple[str, int], list[float]] = collections.defaultdict(lambda: [0, 0])
    for name, (kind, group, sent) in ones.items():
        counts[kind, group][0] += times[name]
        counts[kind, group][1] += times[name] * sent
    found = [Collective(*key, *value) for key, value in counts.items() if key[1] > 1]
    return sorted(found, key=lambda one: -one.sent_bytes)


def by_kind(found: list[Collective]) -> dict[str, float]:
    """Returns the bytes that a device sends, by kind, and their "total"."""
    sums = {kind: 0.0 for kind in KINDS}
    for one in found:
        sums[one.kind] += one.sent_bytes
    return {k: v for k, v in sums.items() if v} | {"total": sum(sums.values())}


def group_size(attributes: str, num_devices: int) -> int:
    """Returns how many devices take part in one group of a collective.

        replica_groups={{0,1},{2,3}}                       2
        replica_groups=[4,2]<=[8]                          2
        replica_groups=mesh['a'=4,'b'=2] {'a'}             4
        replica_groups={}                                  all

    A permutation (source_target_pairs) counts as a group of all.
    """
    if mesh := _NAMED_MESH.search(attributes):
        sizes = {
            name: int(size)
            for name, size in re.findall(r"'([^']+)'=(\d+)", mesh.group(1))
        }
        return math.prod(
            sizes[name] for name in re.findall(r"'([^']+)'", mesh.group(2))
        )
    if iota := _IOTA.search(attributes):
        return int(iota.group(2))
    if listed := _LISTED.search(attributes):
        return len(listed.group(1).split(","))
    return num_devices


def _sent(kind: str, operand_bytes: float, group: int) -> float:
    share = (group - 1) / group
    factors = {
        "all-gather": group - 1,
        "reduce-scatter": share,
        "all-reduce": 2 * share,
        "all-to-all": share,
        "collective-permute": 1,
    }
    return operand_bytes * factors[kind]


def _operand_bytes(instruction: hlo.Instruction, module: hlo.Module, where: str):
    known = module.computations[where]
    return sum(known[name].num_bytes for name in instruction.operands if name in known)
