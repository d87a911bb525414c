"""From one family's names and layouts to ours and back, both from the same rows.

A row says where one or more of their arrays lie in one of ours: in a layer of a stack,
side by side, transposed. Our arrays are stacked over layers and multiplied from the
right, `[inputs, outputs]`; theirs are one a layer and `[outputs, inputs]`:

    ours    blocks/qkv_D3HK [layers, D, 3, H, K]
    theirs  layers.0.self_attn.q_proj.weight [H*K, D], k_proj, v_proj, layers.1. ...
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from cm3leon_jax.convert.safetensors_file import Spec

_NUM_SHOWN = 4  # names in an error

Read = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """Where their arrays lie in one of ours.

    Attributes:
      ours: Name of our array.
      theirs: Names of their arrays, in the order in which they lie side by side.
      shape: Of our array, of one layer of it if there are layers.
      layer: Which one, or None.
      num_inputs: Input dimensions of a product, which theirs has last and in one; 0
        keeps the layout as it is.
      split: The dimension of ours along which theirs lie side by side, if several.
      extra_rows: Rows in front that theirs has and that mean nothing: zeros.
      permutation: Order of their dimensions, as ours are transposed; () for none.
      places: int[shape[0]], which of their first entries each of ours is; None: the same.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    layer: int | None = None
    num_inputs: int = 0
    split: int = 0
    extra_rows: int = 0
    permutation: tuple[int, ...] = ()
    places: np.ndarray | None = dataclasses.field(default=None, compare=False)

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of what one of theirs becomes, in our layout."""
        if len(self.theirs) == 1:
            return self.shape
        return self.shape[: self.split] + self.shape[self.split + 1 :]

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of each of their arrays."""
        shape = self.part_shape
        if self.permutation:
            return tuple(shape[axis] for axis in self.permutation)
        if self.num_inputs:
            inputs, outputs = shape[: self.num_inputs], shape[self.num_inputs :]
            return (math.prod(outputs), math.prod(inputs))
        return (shape[0] + self.extra_rows, *shape[1:]) if self.extra_rows else shape

    def to_theirs(self, array: np.ndarray, part: int) -> np.ndarray:
        """Returns one of their arrays from ours (from one layer of it)."""
        if len(self.theirs) > 1:
            array = array.take(part, axis=self.split)
        if self.permutation:
            return array.transpose(self.permutation)
        if self.num_inputs:
            inputs = math.prod(array.shape[: self.num_inputs])
            return array.reshape(inputs, -1).T
        if self.extra_rows:
            front = np.zeros((self.extra_rows, *array.shape[1:]), array.dtype)
            return np.concatenate([front, array])
        if self.places is not None:
            return array[np.argsort(self.places)]
        return array

    def to_ours(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Returns ours (one layer of it) from their arrays."""
        parts = []
        for array in arrays:
            if self.permutation:
                array = array.transpose(np.argsort(self.permutation))
            elif self.num_inputs:
                array = array.T
            elif self.places is not None:
                array = array[self.places]
            parts.append(array[self.extra_rows :].reshape(self.part_shape))
        return parts[0] if len(parts) == 1 else np.stack(parts, self.split)


def their_specs(rows: Sequence[Row], dtype: np.dtype) -> dict[str, Spec]:
    """Name to dtype and shape of all their arrays, in the order of the rows."""
    return {name: Spec(dtype, row.their_shape) for row in rows for name in row.theirs}


def our_specs(rows: Sequence[Row], dtype: np.dtype) -> dict[str, Spec]:
    """Name to dtype and shape of all our arrays, layers stacked."""
    layers: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for row in rows:
        shapes[row.ours] = row.shape
        if row.layer is not None:
            layers[row.ours] = max(layers.get(row.ours, 0), row.layer + 1)
    return {
        name: Spec(dtype, (layers[name], *shape) if name in layers else shape)
        for name, shape in shapes.items()
    }


def make_theirs(
    rows: Sequence[Row], read: Callable[[str, int | None], np.ndarray], dtype: np.dtype
) -> Read:
    """Returns a function from one of their names to its array.

    Args:
      rows: The table.
      read: From one of our names, and the layer or None, to the array.
      dtype: Of what is made.
    """
    places = {name: (row, part) for row in rows for part, name in enumerate(row.theirs)}

    def make(name: str) -> np.ndarray:
        row, part = places[name]
        array = row.to_theirs(read(row.ours, row.layer), part)
        return array.astype(dtype, copy=False)

    return make


def make_ours(
    rows: Sequence[Row], read: Read, dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our arrays in the order of `our_specs`, a stack layer by layer."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.ours, []).append(row)
    for name, members in by_name.items():
        for row in sorted(members, key=lambda row: row.layer or 0):
            array = row.to_ours([read(one) for one in row.theirs])
            yield name, array.astype(dtype, copy=False)


def check_names(
    where: str, found: Mapping[str, Spec], rows: Sequence[Row], ignored: Collection[str]
) -> None:
    """Refuses arrays that have no place, are missing, or have another shape.

    Args:
      where: The folder, for the message.
      found: What it holds.
      rows: The table.
      ignored: Names that may be there and are not read.

    Raises:
      ValueError: With the first few names.
    """
    wanted = {name: row.their_shape for row in rows for name in row.theirs}
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted and name not in ignored]
    other = [
        f"{name} {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    for what, names in (
        ("are missing", missing),
        ("have no place in the model", unknown),
        ("have another shape than config.json says", other),
    ):
        if names:
            shown = "; ".join(names[:_NUM_SHOWN])
            raise ValueError(f"{where}: {len(names)} arrays {what}: {shown}")
    for name in wanted:
        if found[name].dtype.kind not in "fV":
            raise ValueError(
                f"{where}: {name} is {found[name].dtype}, weights are floating"
            )
