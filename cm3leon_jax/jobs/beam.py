"""The job `shards` as an Apache Beam pipeline: on Dataflow, Flink, Spark, or here.

For those who outgrow one machine and have no pod. Beam spreads the same two steps that
hosts share among themselves (inputs are listed, shards are written), so the bytes are
those of the local job, and a pipeline that failed goes on after the last mark. The
folder of pictures, the tools and the job's folder must be visible to every worker under
the same paths (a network file system, a mounted bucket).

Needs the extra `beam`, in a virtual environment of its own: Beam asks for older versions
of Pillow and pyarrow than this project's lock.
"""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from cm3leon_jax.data import splits
from cm3leon_jax.data.listing import Shard, Table
from cm3leon_jax.jobs import folder, shards
from cm3leon_jax.jobs.shards import Job

_RUN = 8  # shards of one input that a worker writes in one go: it is read once for them


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes every set that is not yet whole, by the runner that the config names.

    Raises:
      ValueError: If Apache Beam is not installed.
    """
    if not folder.start(config, workdir):
        return
    beam()
    text = json.dumps(config.to_dict())
    make = functools.partial(_make_job, text, str(pathlib.Path(workdir).absolute()))
    summary = write(make, config.beam.runner, config.beam.options)
    folder.finish(workdir, summary)


def beam() -> Any:
    """Imports Apache Beam.

    Raises:
      ValueError: If it is not installed.
    """
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise ValueError(
            "Apache Beam is not installed; make a virtual environment for it:"
            " pip install 'cm3leon-jax[beam]'"
        ) from error


def write(
    make_job: Callable[[], Job], runner: str, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes all shards and the sets' descriptions.

    Args:
      make_job: Makes the job, here and on every worker; it must be picklable.
      runner: Beam's name of it: DirectRunner, DataflowRunner, FlinkRunner, ...
      options: Further flags of the runner, `--project=...`.

    Returns:
      A summary.
    """
    job = make_job()
    found = splits.find(job.pictures, job.source)
    _each(range(len(found)), functools.partial(_list, make_job), runner, options)
    table = shards.make_table(job, found)
    write_some = functools.partial(_write, make_job)
    _each(_runs(table), write_some, runner, options)
    return shards.conclude(job, found, table)


def _each(
    elements: Sequence[Any],
    function: Callable[[Any], None],
    runner: str,
    options: Sequence[str],
) -> None:
    """Applies a function to all elements, on the runner's workers."""
    api = beam()
    given = api.options.pipeline_options.PipelineOptions([*options], runner=runner)
    with api.Pipeline(options=given) as pipeline:
        made = pipeline | "work" >> api.Create(list(elements))
        spread = made | "spread" >> api.Reshuffle()
        _ = spread | "do" >> api.Map(function)


def _runs(table: Table) -> list[list[Shard]]:
    """The shards in runs of one input each."""
    runs: list[list[Shard]] = []
    for shard in table.shards:
        is_new = not runs or runs[-1][-1].input != shard.input or len(runs[-1]) == _RUN
        if is_new:
            runs.append([])
        runs[-1].append(shard)
    return runs


def _list(make_job: Callable[[], Job], place: int) -> None:
    job = make_job()
    shards.list_input(job, splits.find(job.pictures, job.source), place)


def _write(make_job: Callable[[], Job], wanted: list[Shard]) -> None:
    job = make_job()
    table = shards.make_table(job, splits.find(job.pictures, job.source))
    shards.write_shards(job, table, wanted)


@functools.lru_cache(1)
def _make_job(text: str, workdir: str) -> Job:
    """The job of a config; a worker reads its tools once."""
    return shards.make_job(ml_collections.ConfigDict(json.loads(text)), workdir)
