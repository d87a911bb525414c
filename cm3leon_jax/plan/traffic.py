"""Bytes that a compiled program moves through a device's main memory.

Every operation that is not part of another (a fusion counts as one) reads its operands
and writes its result. Of an array of which it takes or changes a slice, as loops do
with what they save, the slice counts; what lies in a TPU's fast memory does not.
"""

import dataclasses

from cm3leon_jax.plan import hlo

_PRODUCTS = ("dot", "convolution")
_KERNEL_TARGETS = ("tpu_custom_call", "gemm", "cudnn", "matmul", "triton")
# What moves nothing by itself: names for results, loops (their bodies count), ends of
# what began elsewhere.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "domain",
}
_SLICED = ("dynamic-slice", "gather", "slice")
_PASSED_ON = ("tuple", "get-tuple-element", "bitcast", "all-gather", "opt-barrier")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes of one run of a program on one device.

    Attributes:
      products: of operations that hold a matrix product or are a kernel: their traffic
        and their arithmetic overlap.
      others: of all other operations.
    """

    products: float
    others: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.others


def find(module: hlo.Module) -> Traffic:
    """Returns the traffic of a compiled program on one device."""
    products, others = 0.0, 0.0
    for name, times in module.runs(into_fusions=False).items():
        computation = module.computations.get(name, {})
        for instruction in computation.values():
            moved = times * _moved(instruction, computation, module)
            if _is_product(instruction, module):
                products += moved
            else:
                others += moved
    return Traffic(products, others)


def _is_product(instruction: hlo.Instruction, module: hlo.Module) -> bool:
    if instruction.opcode in _PRODUCTS:
        return True
    if instruction.opcode == "custom-call":
        return any(target in instruction.attributes for target in _KERNEL_TARGETS)
    if instruction.opcode != "fusion":
        return False
    inner = [module.computations.get(name, {}) for name in instruction.called]
    return any(_is_product(part, module) for one in inner for part in one.values())


def _moved(
    instruction: hlo.Instruction,
    computation: dict[str, hlo.Instruction],
    module: hlo.Module,
) -> float:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0.0
    if opcode == "fusion":
        return _of_fusion(instruction, computation, module)
    operands = [
        computation[name] for name in instruction.operands if name in computation
    ]
    if opcode in _SLICED:
        return 2 * _main(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * _main(operands[1])
    if opcode.endswith("-start"):  # its result repeats the operand
        return sum(map(_main, operands)) + _main(instruction) / 2
    return sum(map(_main, operands)) + _main(instruction)


def _of_fusion(
    instruction: hlo.Instruction,
    computation: dict[str, hlo.Instruction],
    module: hlo.Module,
) -> float:
    inner = module.computations[instruction.called[0]]
    users: dict[str, list[hlo.Instruction]] = {}
    for part in inner.values():
        for name in part.operands:
            users.setdefault(name, []).append(part)
    moved = 0.0
    for part in inner.values():
        if part.opcode != "parameter":
            continue
        outer = computation.get(instruction.operands[int(part.literal)])
        if outer is None or all(array.is_local for array in outer.arrays):
            continue
        moved += _read(part, users)
    root = next(part for part in inner.values() if part.is_root)
    results = (
        [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    # The result's place is known at the fusion, not inside it.
    places = instruction.arrays
    for index, result in enumerate(results):
        is_local = index < len(places) and places[index].is_local
        moved += 0.0 if is_local else _written(result, inner)
    return moved


def _read(part: hlo.Instruction, users: dict[str, list[hlo.Instruction]]) -> float:
    """Bytes that a fusion reads of one of its parameters."""
    read = 0.0
    for user in users.get(part.name, []):
        if user.opcode in _SLICED:
            read += user.num_bytes
        elif user.opcode == "bitcast":
            read += _read(user, users)
        elif user.opcode in _PASSED_ON:
            continue
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == part.name:
            continue  # changed in place
        else:
            return part.num_bytes
    return min(read, part.num_bytes)


def _written(result: hlo.Instruction, inner: dict[str, hlo.Instruction]) -> float:
    """Bytes that a fusion writes for one of its results."""
    while result.opcode in ("bitcast", "get-tuple-element") and result.operands:
        result = inner[result.operands[0]]
    if result.opcode == "parameter":
        return 0.0
    if result.opcode == "dynamic-update-slice":
        return inner[result.operands[1]].num_bytes
    return result.num_bytes


def _main(instruction: hlo.Instruction) -> float:
    """Bytes of a result that lie in main memory."""
    return sum(array.num_bytes for array in instruction.arrays if not array.is_local)
