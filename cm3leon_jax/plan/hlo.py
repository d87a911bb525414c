"""A compiled program's text as computations and instructions, with how often each runs.

The compiler's own totals count the body of a loop once. Here a loop's trip count is
read from the program (its annotation, or the constant that its condition compares
with), and everything in its body counts that many times.

Only what the accounts of `collectives` and `traffic` need is read: names, shapes,
operands, called computations.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_FOLLOWED = frozenset({"while", "call", "conditional", "async-start"})
_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # others end in their width
_ARRAY = re.compile(r"\b([a-z]+[0-9a-z]*)\[([0-9,]*)\](\{[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      dtype: as the text writes it, "bf16".
      shape: its dimensions, on one device.
      is_local: whether it lies in the chip's fast memory, not in its main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    is_local: bool = False

    @property
    def num_bytes(self) -> float:
        """Bytes without padding."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits.group()) if digits else 0
        return math.prod(self.shape) * bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: of its result.
      opcode: "fusion", "all-gather", "while", ...
      arrays: of its result, tuples flattened.
      operands: names of the instructions whose results it takes.
      attributes: what stands after the operands.
      literal: what stands between the parentheses: a constant's value, a parameter's
        number.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str
    is_root: bool

    @property
    def num_bytes(self) -> float:
        """Bytes of the result."""
        return sum(array.num_bytes for array in self.arrays)

    @property
    def called(self) -> list[str]:
        """Computations that it runs."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += [name.strip().lstrip("%") for name in branches.split(",")]
        return names


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: name -> its instructions by name, in order.
      entry: name of the one that is run.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def runs(self, *, into_fusions: bool = True) -> dict[str, float]:
        """Returns how often each computation runs in one run of the program.

        Computations that an elementwise operation applies (the sum of a reduction) are
        left out; of a conditional every branch counts.

        Args:
          into_fusions: whether the computations inside of fusions are among them.
        """
        followed = _FOLLOWED | {"fusion"} if into_fusions else _FOLLOWED
        found: dict[str, float] = {}

        def visit(name: str, times: float) -> None:
            """Adds runs of a computation and of what it calls."""
            found[name] = found.get(name, 0.0) + times
            for instruction in self.computations.get(name, {}).values():
                if instruction.opcode in followed:
                    for called in instruction.called:
                        visit(called, times * self.trips(instruction))

        visit(self.entry, 1.0)
        return found

    def trips(self, instruction: Instruction) -> int:
        """Returns how often an instruction runs what it calls: a loop's trip count."""
        if instruction.opcode != "while":
            return 1
        known = _TRIPS.search(instruction.attributes)
        if known:
            return int(known.group(1))
        condition = re.search(r"condition=%?([\w.\-]+)", instruction.attributes)
        bounds = []
        if condition:
            for inner in self.computations.get(condition.group(1), {}).values():
                if inner.opcode == "constant" and inner.literal.isdigit():
                    bounds.append(int(inner.literal))
        return max(bounds, default=1)

    def executed(self) -> Iterator[tuple[Instruction, float, str]]:
        """Yields every instruction with how often it runs, and its computation."""
        for name, times in self.runs().items():
            for instruction in self.computations.get(name, {}).values():
                yield instruction, times, name


def parse(text: str) -> Module:
    """Reads the text of a compiled program (`compiled.as_text()`).

    Raises:
      ValueError: if it has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line == "}":  # a kernel's attributes have lines that begin so
            current = None
            continue
        line = _COMMENT.sub("", line)
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header.group(2), {})
            entry = header.group(2) if header.group(1) else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(*match.groups())
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY computation; is it a compiled program?")
    return Module(computations, entry)


def _instruction(root: str | None, name: str, rest: str) -> Instruction:
    """Splits `TYPE opcode(operands), attributes`."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    match = _OPCODE.match(rest, end)
    if match is None:
        raise ValueError(f"the instruction {name} has no opcode: {rest[:80]!r}")
    close = _closing(rest, match.end() - 1)
    inside = rest[match.end() : close]
    return Instruction(
        name=name,
        opcode=match.group(1),
        arrays=_arrays(rest[:end]),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        attributes=rest[close + 1 :],
        literal=inside,
        is_root=root is not None,
    )


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        Array(
            dtype,
            tuple(int(n) for n in dims.split(",") if n),
            # Memory space 0 is the main memory and not written.
            is_local="S(" in (layout or ""),
        )
        for dtype, dims, layout in _ARRAY.findall(text)
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")
