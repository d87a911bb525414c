"""Variants x seeds of a training run at equal cost: a table with 95 % intervals.

    runs/wide/seed-1/       a run of the job `train`, resumable as any
    evaluate/wide/seed-1/   its numbers, if the config says on what pictures
    compare.json            numbers of every run, its steps, tokens and FLOPs
    compare.txt, compare.md     means over seeds, and differences from the first variant
    compare.html                the same with curves, to look at

A variant is a list of overrides of the base config. The first variant trains as long as
the base says; the others get as many steps as cost the same: tokens, training FLOPs of
the model (every token of a row counted, retrieved ones too), steps, or documents that
the mixture shows. A variant of 0 steps is the model that it would start from. Where
models are given, nothing is trained: variants are overrides of the evaluation.

`{seed}` in `base.init_from` and `model` is the seed of the run. Runs that are complete
are not made again: stop the job when you like, and start it with the same command.
Studies whose `runs` is one folder share the runs that have one name and one config.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from cm3leon_jax import cpu, storage
from cm3leon_jax.data import shards
from cm3leon_jax.evals import chance
from cm3leon_jax.jobs import evaluate, folder, mixing, recipe, train
from cm3leon_jax.reports import compare as report
from cm3leon_jax.train import flops

EQUAL = ("tokens", "flops", "steps", "documents")
_SEED = "{seed}"
_VALIDATION = "validation_perplexity"  # numbers that become curves
_HIDDEN = ("num_", "validation_loss")  # numbers that no table needs

Numbers = Mapping[str, Sequence[Mapping[str, float]]]  # of every variant, a run each


@dataclasses.dataclass(frozen=True)
class Plan:
    """One variant, before its runs.

    Attributes:
      name: Of the variant.
      config: What its overrides made of the base, or of the evaluation.
      num_steps: So many that its cost is the first variant's; 0: nothing is trained.
      tokens: Of the whole run, padding and retrieved documents included.
      flops: Of its training.
    """

    name: str
    config: ml_collections.ConfigDict
    num_steps: int = 0
    tokens: float = 0.0
    flops: float = 0.0


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains and measures every variant with every seed, and writes the table.

    Raises:
      FileNotFoundError: If shards, models or pictures are missing.
      ValueError: If a variant names an unknown field, or costs cannot be made equal.
    """
    # Once, before anything asks for a device: the runs share this process.
    cpu.use_devices(config.base.num_cpu_devices)
    plans = make_plans(config)
    if not folder.start(config, workdir):
        return
    root = pathlib.Path(workdir)
    numbers: dict[str, list[dict[str, float]]] = {plan.name: [] for plan in plans}
    curves: dict[str, list[report.Curve]] = {plan.name: [] for plan in plans}
    for seed in config.seeds:  # all variants of a seed before the next: early tables
        for plan in plans:
            made = pathlib.Path(config.runs or root / "runs") / plan.name
            where = made / f"seed-{seed}"
            print(f"{plan.name}, seed {seed}: {plan.num_steps} steps in {where}")
            found = _trained(plan, where, seed) if plan.num_steps else {}
            found |= _measured(plan, config, where, root, seed)
            numbers[plan.name].append(_plain(found))
            curves[plan.name].append(_curve(where, plan) if plan.num_steps else {})
        _write(root, plans, numbers, curves, config)
    print((root / "compare.txt").read_text())
    folder.finish(workdir, storage.read_json(root / "compare.json"))


def make_plans(config: ml_collections.ConfigDict) -> list[Plan]:
    """Returns the variants with as many steps as cost the same.

    Raises:
      ValueError: If there are no variants or seeds, an override is no `field=value` or
        names no field, or `equal` is unknown.
    """
    if not config.variants or not config.seeds:
        raise ValueError("compare needs variants and seeds; name at least one of each")
    for name in (config.equal, *config.equal_in.values()):
        if name not in EQUAL:
            raise ValueError(f"equal={name!r} must be one of {', '.join(EQUAL)}")
    base = config.evaluate if config.model else config.base
    configs = {
        name: overridden(base, changes) for name, changes in config.variants.items()
    }
    order = [name for name in config.order if name in configs]
    names = [*order, *(name for name in configs if name not in order)]
    if config.model:
        return [Plan(name, configs[name]) for name in names]
    costs = {name: _cost(configs[name]) for name in names}
    steps = configs[names[0]].loop.num_steps
    budget = {key: cost * steps for key, cost in costs[names[0]].items()}
    return [
        _plan(name, configs[name], costs[name], budget, _equal(config, name))
        for name in names
    ]


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


def _equal(config: ml_collections.ConfigDict, name: str) -> str:
    """What a variant's cost is equal in."""
    return config.equal_in.to_dict().get(name, config.equal)


def _plan(
    name: str,
    config: ml_collections.ConfigDict,
    cost: Mapping[str, float],
    budget: Mapping[str, float],
    equal: str,
) -> Plan:
    steps = config.loop.num_steps
    if steps:
        steps = max(1, round(budget[equal] / cost[equal]))
    config.loop.num_steps = steps
    return Plan(name, config, steps, steps * cost["tokens"], steps * cost["flops"])


def _cost(config: ml_collections.ConfigDict) -> dict[str, float]:
    """What a step costs, and the documents that it shows."""
    tokens = config.loader.batch_size * config.loader.max_length
    name = next(name for name, weight in config.sets.items() if weight)
    source = shards.open(pathlib.Path(config.shards) / name, "train")
    model = recipe.model(config, source.info.vocab, is_cpu=True)
    each = flops.per_token(model, config.loader.max_length).training
    documents = mixing.documents_a_token(config, recipe.loader(config))
    return {
        "tokens": tokens,
        "flops": tokens * each,
        "steps": 1.0,
        "documents": tokens * documents,
    }


def _trained(plan: Plan, where: pathlib.Path, seed: int) -> dict[str, Any]:
    """Trains one run, if it is not complete, and returns its numbers."""
    mine = ml_collections.ConfigDict(plan.config.to_dict())
    mine.seed = mine.loader.seed = seed
    mine.init_from = mine.init_from.replace(_SEED, str(seed))
    mine.num_cpu_devices = 0  # those that there are
    train.run(mine, str(where))
    return dict(folder.summary(str(where)) or {})


def _measured(
    plan: Plan,
    config: ml_collections.ConfigDict,
    where: pathlib.Path,
    root: pathlib.Path,
    seed: int,
) -> dict[str, Any]:
    """Evaluates one model, if that is not done, and returns its numbers."""
    section = plan.config if config.model else config.evaluate
    if not section or not section.pictures.folder:
        return {}
    asked = ml_collections.ConfigDict(section.to_dict())
    model = config.model or (str(where) if plan.num_steps else config.base.init_from)
    asked.model = model.replace(_SEED, str(seed))
    own = root / "evaluate" / plan.name / f"seed-{seed}"
    evaluate.run(asked, str(own))
    found = folder.summary(str(own)) or {}
    return dict(found.get("numbers", found))


def _plain(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value for key, value in found.items() if isinstance(value, int | float)
    }


def _curve(where: pathlib.Path, plan: Plan) -> report.Curve:
    """Held-out perplexities of a run by training FLOPs, from its log."""
    curve: dict[str, list[tuple[float, float]]] = {}
    for line in (where / train.METRICS).read_text().splitlines():
        entry = json.loads(line)
        for key, value in entry.items():
            if key.startswith(_VALIDATION):
                flops_so_far = plan.flops * entry["step"] / plan.num_steps
                curve.setdefault(key, []).append((flops_so_far, value))
    return curve


def _write(
    root: pathlib.Path,
    plans: Sequence[Plan],
    numbers: Numbers,
    curves: Mapping[str, Sequence[report.Curve]],
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
                    "equal": _equal(config, plan.name),
                    "steps": plan.num_steps,
                    "tokens": plan.tokens,
                    "flops": plan.flops,
                    "runs": [dict(one) for one in numbers[plan.name]],
                    "curves": [dict(one) for one in curves[plan.name]],
                }
                for plan in plans
            },
            "table": [row.to_json() for row in rows],
        },
    )
    storage.write_bytes(root / "compare.txt", report.text(rows).encode())
    storage.write_bytes(root / "compare.md", (report.markdown(rows) + "\n").encode())
    means = {name: _mean(several) for name, several in curves.items()}
    report.write(root / "compare.html", config.title, rows, means)


def _mean(curves: Sequence[report.Curve]) -> report.Curve:
    """The mean of the curves of several seeds, which have the same places."""
    keys = curves[0] if curves else ()
    return {
        key: [tuple(place) for place in np.mean([one[key] for one in curves], axis=0)]
        for key in keys
    }


def table(plans: Sequence[Plan], numbers: Numbers) -> list[report.Row]:
    """Returns the rows of the table: every number of every variant.

    A difference is taken seed by seed, so that what a seed does to both is not in it.

    Args:
      plans: The first is what the others are compared with.
      numbers: Of every variant, those of each seed, in the order of the seeds.
    """
    first = numbers[plans[0].name]
    rows = []
    for key in first[0] if first else ():
        if key.startswith(_HIDDEN):
            continue
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
