"""Variants x seeds of a training run at equal cost: a table with 95 % intervals.

    runs/wide/seed-1/       a run of the job `train`, resumable as any
    runs/wide/seed-1/evaluate/  its numbers, if the config has a section `evaluate`
    compare.json            numbers of every run, its steps, tokens and FLOPs
    compare.txt, compare.html   means over seeds, and differences from the first variant

A variant is a list of overrides of the base config. The first variant trains as long as
the base says; the others get as many steps as cost the same: tokens, or training FLOPs of
the model, with every token of a row counted, retrieved ones too. Runs that are complete
are not made again: stop the job when you like, and start it with the same command.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from cm3leon_jax import sharding, storage
from cm3leon_jax.data import shards
from cm3leon_jax.evals import chance
from cm3leon_jax.jobs import evaluate, folder, recipe, train
from cm3leon_jax.reports import compare as report
from cm3leon_jax.train import flops

EQUAL = ("tokens", "flops", "steps")


@dataclasses.dataclass(frozen=True)
class Plan:
    """One variant, before its runs.

    Attributes:
      name: Of the variant.
      config: The base with its overrides.
      num_steps: So many that its cost is the first variant's.
      tokens: Of the whole run, padding and retrieved documents included.
      flops: Of its training.
    """

    name: str
    config: ml_collections.ConfigDict
    num_steps: int
    tokens: float
    flops: float


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains every variant with every seed, and writes the table.

    Raises:
      FileNotFoundError: If the shards are missing.
      ValueError: If a variant names an unknown field, or costs cannot be made equal.
    """
    # Once, before anything asks for a device: the runs share this process.
    sharding.use_platform(config.base.num_cpu_devices)
    plans = make_plans(config)
    if not folder.start(config, workdir):
        return
    root = pathlib.Path(workdir)
    numbers: dict[str, list[dict[str, float]]] = {plan.name: [] for plan in plans}
    for seed in config.seeds:  # all variants of a seed before the next: early tables
        for plan in plans:
            where = root / "runs" / plan.name / f"seed-{seed}"
            print(f"{plan.name}, seed {seed}: {plan.num_steps} steps in {where}")
            numbers[plan.name].append(_measured(plan, config, where, seed))
        _write(root, plans, numbers, config)
    text = (root / "compare.txt").read_text()
    print(text)
    folder.finish(workdir, storage.read_json(root / "compare.json"))


def make_plans(config: ml_collections.ConfigDict) -> list[Plan]:
    """Returns the variants with as many steps as cost the same.

    Raises:
      ValueError: If there are no variants or seeds, an override is no `field=value` or
        names no field, or `equal` is unknown.
    """
    if not config.variants or not config.seeds:
        raise ValueError("compare needs variants and seeds; name at least one of each")
    if config.equal not in EQUAL:
        raise ValueError(f"{config.equal=} must be one of {', '.join(EQUAL)}")
    configs = {
        name: overridden(config.base, changes)
        for name, changes in config.variants.items()
    }
    order = [name for name in config.order if name in configs] if config.order else []
    names = [*order, *(name for name in configs if name not in order)]
    costs = {name: _cost(configs[name]) for name in names}
    budget = {
        key: cost * configs[names[0]].loop.num_steps
        for key, cost in costs[names[0]].items()
    }
    plans = []
    for name in names:
        cost = costs[name][config.equal]
        steps = max(1, round(budget[config.equal] / cost))
        configs[name].loop.num_steps = steps
        plans.append(
            Plan(
                name,
                configs[name],
                steps,
                tokens=steps * costs[name]["tokens"],
                flops=steps * costs[name]["flops"],
            )
        )
    return plans


def overridden(
    base: ml_collections.ConfigDict, changes: Sequence[str]
) -> ml_collections.ConfigDict:
    """Returns a copy of a config with some fields changed.

    Args:
      base: Is left as it is.
      changes: `loader.neighbor_probs=(1.0,)` each; the value is a Python literal, or a
        bare string.

    Raises:
      ValueError: If a change is no `field=value`, or the field is unknown.
    """
    made = ml_collections.ConfigDict(base.to_dict())
    for change in changes:
        path, mark, text = change.partition("=")
        *sections, field = path.strip().split(".")
        section: Any = made
        try:
            for name in sections:
                section = section[name]
            before = section[field]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{change!r} names no field of the base config") from error
        if not mark:
            raise ValueError(f"{change!r} must be field=value")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if isinstance(before, float) and isinstance(value, int):
            value = float(value)
        with section.ignore_type():
            section[field] = value
    return made


def _cost(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Tokens and training FLOPs of a step."""
    tokens = config.loader.batch_size * config.loader.max_length
    name = next(name for name, weight in config.sets.items() if weight)
    source = shards.open(pathlib.Path(config.shards) / name, "train")
    model = recipe.model(config, source.info.vocab, is_cpu=True)
    each = flops.per_token(model, config.loader.max_length).training
    return {"tokens": tokens, "flops": tokens * each, "steps": 1.0}


def _measured(
    plan: Plan, config: ml_collections.ConfigDict, where: pathlib.Path, seed: int
) -> dict[str, float]:
    """Trains one run, if it is not complete, and returns its numbers."""
    mine = ml_collections.ConfigDict(plan.config.to_dict())
    mine.seed = mine.loader.seed = seed
    mine.num_cpu_devices = 0  # those that there are
    train.run(mine, str(where))
    found = dict(folder.summary(str(where)) or {})
    if config.evaluate:
        asked = ml_collections.ConfigDict(config.evaluate.to_dict())
        asked.model = str(where)
        evaluate.run(asked, str(where / "evaluate"))
        measured = folder.summary(str(where / "evaluate")) or {}
        found |= measured.get("numbers", measured)
    return {
        key: value for key, value in found.items() if isinstance(value, int | float)
    }


def _write(
    root: pathlib.Path,
    plans: Sequence[Plan],
    numbers: Mapping[str, Sequence[Mapping[str, float]]],
    config: ml_collections.ConfigDict,
) -> None:
    """Writes what is known so far."""
    rows = table(plans, numbers)
    storage.write_json(
        root / "compare.json",
        {
            "equal": config.equal,
            "seeds": list(config.seeds),
            "variants": {
                plan.name: {
                    "overrides": list(config.variants[plan.name]),
                    "steps": plan.num_steps,
                    "tokens": plan.tokens,
                    "flops": plan.flops,
                    "runs": [dict(one) for one in numbers[plan.name]],
                }
                for plan in plans
            },
            "table": [row.to_json() for row in rows],
        },
    )
    storage.write_bytes(root / "compare.txt", report.text(rows).encode())
    report.write(root / "compare.html", config.title, rows)


def table(
    plans: Sequence[Plan], numbers: Mapping[str, Sequence[Mapping[str, float]]]
) -> list[report.Row]:
    """Returns the rows of the table: every number of every variant.

    A difference is taken seed by seed, so that what a seed does to both is not in it.

    Args:
      plans: The first is what the others are compared with.
      numbers: Of every variant, those of each seed, in the order of the seeds.
    """
    first = numbers[plans[0].name]
    rows = []
    for key in first[0] if first else ():
        for plan in plans:
            runs = [run for run in numbers[plan.name] if key in run]
            if not runs or not all(key in run for run in first):
                continue
            mean, half = chance.interval([run[key] for run in runs])
            pairs = zip(runs, first, strict=False)
            difference, spread = chance.interval([a[key] - b[key] for a, b in pairs])
            rows.append(
                report.Row(
                    number=key,
                    variant=plan.name,
                    steps=plan.num_steps,
                    tokens=plan.tokens,
                    flops=plan.flops,
                    num_seeds=len(runs),
                    mean=mean,
                    half=half,
                    difference=difference,
                    difference_half=spread,
                )
            )
    return rows
