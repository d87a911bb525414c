"""The engine: continues any sequence of text and image ids, many rows at once.

One compiled function (`loop`) runs the prompts and then a loop of single steps. What
varies from call to call (prompts, plans, seeds, scales) is data. What is compiled anew:
the padded shape (`Shapes`), how many streams there are, whether ids are filtered, and a
rule of one's own.

A row's noise comes from its own seed and step, and no computation mixes rows, so a
request's answer is the same whatever else is in a batch of the same padded shape.

Letters: S streams of a request, T new ids, N pieces of a plan; else as everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np

from cm3leon_jax import sharding
from cm3leon_jax.decoding import grammar, loop, sampling
from cm3leon_jax.decoding.prompts import Request
from cm3leon_jax.models import transformer
from cm3leon_jax.vocab import Vocab

_T = TypeVar("_T")
_SEED_BITS = 32  # of a request's seed that reach the key


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The padded shapes that may be compiled; the smallest that holds is taken.

    Attributes:
      rows: Requests a batch, ascending; more requests make more batches. On a mesh
        they are rounded up to what its devices share out evenly.
      prompt_lengths: Ids of the longest prompt of a batch, ascending.
      steps: New ids, ascending.
      num_pieces: Pieces of a plan, ascending.
      share_from: A prompt of at least so many padded ids is run once for all rows of a
        batch that have it. Shorter ones cost less than another compiled program.
    """

    rows: tuple[int, ...] = (1, 4, 16, 64)
    prompt_lengths: tuple[int, ...] = tuple(2**i for i in range(5, 14))
    steps: tuple[int, ...] = tuple(2**i for i in range(4, 14))
    num_pieces: tuple[int, ...] = tuple(2**i for i in range(3, 14))
    share_from: int = 512


DEFAULT_SHAPES = Shapes()


def generate(
    model: transformer.Transformer,
    requests: Sequence[Request],
    vocab: Vocab,
    shapes: Shapes = DEFAULT_SHAPES,
    report: Callable[[int], None] = lambda rows: None,
    mesh: jax.sharding.Mesh | None = None,
) -> list[np.ndarray]:
    """Returns the new ids of every request, each following its plan to the end.

    Args:
      model: Unstacked (`transformer.unstack`), so that no step slices the stack.
      requests: Any mixture; those of one shape share batches.
      vocab: The joint vocabulary.
      shapes: Padded shapes.
      report: Called with the number of requests finished, batch by batch.
      mesh: Devices that share the rows of a batch; the model lies on it (`place`).

    Returns:
      int32[n] a request, in their order.

    Raises:
      ValueError: If a request does not fit the model's positions or the shapes.
    """
    answers: list[np.ndarray] = [np.zeros(0, np.int32)] * len(requests)
    groups: dict[loop.Kind, list[int]] = {}
    for index, request in enumerate(requests):
        kind = check(request, vocab, shapes, model.config.max_length)
        groups.setdefault(kind, []).append(index)
    for kind, members in groups.items():
        for batch in batches(members, _padded(shapes.rows[-1], mesh)):
            inputs, full = _inputs([requests[i] for i in batch], kind, shapes, mesh)
            ids_BT, written_B = map(
                np.asarray, loop.decode(model, inputs, kind=full, vocab=vocab)
            )
            for row, index in enumerate(batch):
                answers[index] = ids_BT[row, : written_B[row]]
            report(len(batch))
    return answers


def place(
    model: transformer.Transformer, mesh: jax.sharding.Mesh
) -> transformer.Transformer:
    """Returns the model on a mesh: a copy along `data`, cut along the other axes.

    Along `tensor` every device has its heads and columns, and computes with them;
    along `fsdp` weights are gathered when they are used.

    Raises:
      ValueError: If a dimension of a weight is not a multiple of its mesh axis.
    """
    where = sharding.shardings(model, mesh, transformer.LOGICAL_AXES)
    return jax.device_put(model, where)


def stream(
    model: transformer.Transformer,
    requests: Sequence[Request],
    vocab: Vocab,
    every: int,
    shapes: Shapes = DEFAULT_SHAPES,
    mesh: jax.sharding.Mesh | None = None,
) -> Iterator[list[np.ndarray]]:
    """Yields the ids of requests as they come; the last are what `generate` returns.

    Args:
      model: Unstacked.
      requests: Of one shape, as samples of one prompt are, and one batch at most.
      vocab: The joint vocabulary.
      every: Steps between two looks.
      shapes: Padded shapes.
      mesh: As for `generate`.

    Yields:
      int32[n] a request, the ids written so far.

    Raises:
      ValueError: If the requests do not fit one batch, or the model's positions.
    """
    kinds = {check(each, vocab, shapes, model.config.max_length) for each in requests}
    if len(kinds) != 1 or len(requests) > shapes.rows[-1]:
        raise ValueError(
            f"{len(requests)} requests of {len(kinds)} shapes do not fit one batch of"
            f" {shapes.rows[-1]}; stream requests that are alike, or use generate"
        )
    inputs, kind = _inputs(requests, kinds.pop(), shapes, mesh)
    carry = loop.begin(model, inputs, kind=kind)
    until, is_going = 0, True
    while is_going:
        until += every
        carry = loop.go_on(model, inputs, carry, until, kind=kind, vocab=vocab)
        ids_BT, written_B = np.asarray(carry.ids_BT), np.asarray(carry.written_B)
        yield [ids_BT[row, : written_B[row]] for row in range(len(requests))]
        is_going = bool((np.asarray(carry.place.piece_B) < inputs.plans.num_B).any())


def local_mesh(config: sharding.MeshConfig | None) -> jax.sharding.Mesh | None:
    """Returns the devices of this process as a mesh; None if one computes alone.

    Args:
      config: Devices along each axis; by default every accelerator has a copy of the
        model, and a CPU computes as one.

    Raises:
      ValueError: If the axes do not multiply to the number of devices.
    """
    devices = jax.local_devices()
    if config is None:  # devices of a CPU share its cores already
        devices = devices if jax.default_backend() != "cpu" else devices[:1]
        config = sharding.MeshConfig(data=len(devices), fsdp=1)
    mesh = sharding.make_mesh(config, devices)
    return mesh if mesh.size > 1 else None


def check(request: Request, vocab: Vocab, shapes: Shapes, max_length: int) -> loop.Kind:
    """Refuses a request that `generate` would refuse (ValueError); returns its kind."""
    grammar.check(request.plan, vocab)
    longest = max(len(stream) for stream in request.streams)
    num_steps = grammar.steps(request.plan)
    check_positions(longest + num_steps, max_length)
    return loop.Kind(
        num_streams=len(request.streams),
        is_contrast=request.sampling.contrast_k > 0,
        is_filtered=request.sampling.is_filtered,
        rule=request.sampling.rule,
        prompt_length=smallest(longest, shapes.prompt_lengths, "prompt ids"),
        num_steps=smallest(num_steps, shapes.steps, "new ids"),
        num_pieces=smallest(len(request.plan), shapes.num_pieces, "plan pieces"),
    )


def check_positions(needed: int, max_length: int) -> None:
    """Refuses a sequence that the model has no positions for (ValueError)."""
    if needed > max_length:
        raise ValueError(
            f"prompt and answer need {needed} ids, the model has {max_length}"
            " positions; shorten the prompt, or retrieve fewer documents"
        )


def smallest(needed: int, sizes: tuple[int, ...], what: str) -> int:
    """Returns the smallest padded size that holds `needed`; ValueError if none."""
    for size in sizes:
        if size >= needed:
            return size
    raise ValueError(f"{needed} {what} do not fit the padded sizes {sizes}; add one")


def batches(members: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yields the members in runs of at most `size`."""
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _inputs(
    requests: Sequence[Request],
    kind: loop.Kind,
    shapes: Shapes,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[loop.Inputs, loop.Kind]:
    """The arrays of a batch, and its kind with the prompts that it shares."""
    sizes = tuple(_padded(size, mesh) for size in shapes.rows)
    rows = smallest(len(requests), sizes, "requests a batch")
    prompts_SBL = np.full((kind.num_streams, rows, kind.prompt_length), Vocab.PAD)
    prompts_SBL = prompts_SBL.astype(np.int32)
    lengths_SB = np.ones((kind.num_streams, rows), np.int32)
    for row, request in enumerate(requests):
        for stream, ids in enumerate(request.streams):
            prompts_SBL[stream, row, kind.prompt_length - len(ids) :] = ids
            lengths_SB[stream, row] = len(ids)
    plans = [request.plan for request in requests]
    plans += [()] * (rows - len(requests))
    samplings = [request.sampling for request in requests]
    seeds_B = np.zeros(rows, np.uint32)
    for row, request in enumerate(requests):
        seeds_B[row] = request.seed % 2**_SEED_BITS
    first_U = which_R = np.zeros(0, np.int32)
    if kind.prompt_length >= shapes.share_from:
        first_U, which_R = _shared(prompts_SBL.reshape(-1, kind.prompt_length))
    inputs = loop.Inputs(
        prompts_SBL=prompts_SBL,
        lengths_SB=lengths_SB,
        plans=grammar.table(plans, kind.num_pieces),
        seeds_B=seeds_B,
        settings=sampling.table(samplings + samplings[:1] * (rows - len(requests))),
        first_U=first_U,
        which_R=which_R,
    )
    kind = dataclasses.replace(kind, num_prompts=len(first_U))
    return inputs if mesh is None else _spread(inputs, mesh), kind


def _padded(rows: int, mesh: jax.sharding.Mesh | None) -> int:
    """The least number of rows from `rows` that the devices share out evenly."""
    parts = sharding.count(mesh, "batch")
    return -(-rows // parts) * parts


def _spread(inputs: loop.Inputs, mesh: jax.sharding.Mesh) -> loop.Inputs:
    """Puts each device's rows on it; which prompts are shared is known to all."""

    def put(array: np.ndarray, *axes: str | None) -> jax.Array:
        """Puts an array whose first dimensions have these logical axes."""
        where = jax.sharding.NamedSharding(mesh, sharding.spec(axes))
        return jax.device_put(array, where)

    rows = lambda tree: jax.tree.map(lambda array: put(array, "batch"), tree)
    return loop.Inputs(
        prompts_SBL=put(inputs.prompts_SBL, None, "batch"),
        lengths_SB=put(inputs.lengths_SB, None, "batch"),
        plans=rows(inputs.plans),
        seeds_B=rows(inputs.seeds_B),
        settings=rows(inputs.settings),
        first_U=put(inputs.first_U),
        which_R=put(inputs.which_R),
    )


def _shared(prompts_RL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each different prompt, and the prompt of each row.

    The number of prompts is rounded up to a power of 2, with copies of the first; no
    prompt is shared (both are empty) if that saves nothing.
    """
    unique_UL, first_U, which_R = np.unique(
        prompts_RL, axis=0, return_index=True, return_inverse=True
    )
    missing = (1 << (len(unique_UL) - 1).bit_length()) - len(unique_UL)
    if len(unique_UL) + missing >= len(prompts_RL):
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    first_U = np.pad(first_U, (0, missing), mode="wrap" if missing else "constant")
    return first_U.astype(np.int32), which_R.reshape(-1).astype(np.int32)
