"""Finds the neighbours of every document and joins them into the shards.

    pairs/        the set again, each record with up to four neighbours: ids, scores,
                  how they were found, and (join "inline") their tokens
    others        links to (or copies of) the other sets, so that training finds all here
    bank.json     the splits of the memory bank, for join "ids"
    kept_out.safetensors  bank documents that are near-duplicates of evaluation documents
    progress/     a mark for each shard that is whole
    pool/ found/ runs/    what is between; deleted at the end

A neighbour's id is its place in the memory bank: the bank's splits one after the other,
in the order of `config.bank`. A document is never its own neighbour, and splits other
than training look for neighbours in the bank alone. Near-duplicates of the evaluation
sets are never found by anyone.

Any number of hosts runs this with the same line and one folder: each makes its share of
the pool's vectors, of the searches, of the runs and of the shards, and the bytes are the
same. With `index.backend=jax` every host searches the whole bank on its own devices:
memory for the bank's vectors (4 bytes a number, 2 with bfloat16) on each host. With
`pod` the vectors lie over the devices of all hosts, which meet as for training
(`train.meeting`) and search together: for banks that no one host holds. Disk: the runs
take 4 times the tokens while the job runs, the joined set 5 times.
"""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from cm3leon_jax.data import hosts, retrieve, shards, tokenise
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.jobs import folder
from cm3leon_jax.retrieval import faiss_index, index
from cm3leon_jax.retrieval.neighbors import AbstractIndex
from cm3leon_jax.retrieval.strategy import StrategyConfig
from cm3leon_jax.train import meeting

JOINS = ("inline", "ids")
POD = "pod"
BACKENDS = ("jax", POD, "faiss")


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `pairs` with neighbours and links the other sets.

    Raises:
      FileNotFoundError: If the shards are not finished.
      ValueError: If they have no vectors, or no split of the bank.
    """
    if not folder.start(config, workdir):
        return
    job = make_job(config, workdir, Hosts.here())
    summary = retrieve.write(job)
    if not job.hosts.is_first:
        hosts.wait([job.root / folder.DONE], "end of the first host's work")
        return
    source = pathlib.Path(config.shards)
    for path in sorted(source.iterdir()):
        if path.name != tokenise.PAIRS and (path / "dataset_info.json").exists():
            link(path, job.root / path.name)
    shutil.copy2(source / "vocab.json", job.root / "vocab.json")
    print(f"neighbours a document: {summary['neighbors_per_document']}")
    print(f"near-duplicates of evaluation documents kept out: {summary['kept_out']}")
    folder.finish(workdir, summary)
    for name in retrieve.BETWEEN:
        shutil.rmtree(job.root / name, ignore_errors=True)


def make_job(
    config: ml_collections.ConfigDict, workdir: str, own: Hosts
) -> retrieve.Job:
    """Resolves a config.

    Raises:
      FileNotFoundError: If the shards are not finished.
      ValueError: If the bank has no split, or a field is unknown.
    """
    source = pathlib.Path(config.shards) / tokenise.PAIRS
    sizes = shards.splits(source)
    bank = [name for name in config.bank if name in sizes]
    if not bank:
        raise ValueError(f"{config.bank=} names no split of {sorted(sizes)}")
    if config.join not in JOINS:
        raise ValueError(f"{config.join=} must be one of {', '.join(JOINS)}")
    held_out = config.evaluation
    evaluation = [
        shards.open(source, name)
        for name in held_out.splits
        if name in sizes and name not in bank
    ]
    for other in held_out.sets:
        evaluation += [shards.open(other, name) for name in shards.splits(other)]
    return retrieve.Job(
        source=source,
        root=pathlib.Path(workdir),
        bank=bank,
        train_bank=[name for name in config.train_bank if name in sizes],
        strategy=StrategyConfig(**config.strategy),
        rows_per_shard=config.rows_per_shard,
        open_index=_backend(**config.index),
        spread=_spread(**config.index),
        evaluation=evaluation,
        max_similarity=held_out.max_similarity,
        lists=pathlib.Path(config.neighbors) if config.neighbors else None,
        is_inline=config.join == "inline",
        hosts=own,
    )


def _backend(backend: str, **fields: Any) -> Callable[[np.ndarray], AbstractIndex]:
    """How banks are searched: by us on this host's devices, or by FAISS."""
    if backend not in BACKENDS:
        raise ValueError(f"{backend=} must be one of {', '.join(BACKENDS)}")
    if backend == "faiss":
        return faiss_index.FaissIndex
    if backend == POD:
        meeting.join()  # before the devices are looked at
    devices, mesh = jax.local_devices(), None
    if len(devices) > 1:
        mesh = jax.sharding.Mesh(np.array(devices), ("bank",))
    return functools.partial(index.Index, config=index.IndexConfig(**fields), mesh=mesh)


def _spread(backend: str, **fields: Any) -> index.IndexConfig | None:
    """How all hosts search together, if they do."""
    return index.IndexConfig(**fields) if backend == POD else None


def link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a finished set appear in another folder: by hard links, or copies."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        there = target / path.name
        if there.exists() or not path.is_file():
            continue
        try:
            os.link(path, there)
        except OSError:  # another file system
            shutil.copy2(path, there)
