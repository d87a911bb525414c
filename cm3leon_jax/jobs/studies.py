"""All studies of the paper's claims, as the stages that anyone may run by themselves.

scenes ... retrieve   a small world and its shards, or those of a folder of pictures
retrieval ... samples one comparison each (`jobs/compare.py`)
models/               the runs that they share
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from cm3leon_jax import storage
from cm3leon_jax.jobs import folder, quickstart, stages
from cm3leon_jax.jobs.stages import Stage

_TOKENIZERS = {"tokenizer": "tokenizer", "vqgan": "image_tokenizer", "clip": "embedder"}
_UNTIL = "retrieve"  # the last stage of a quickstart that studies need
_SHARED = "base/seed-{seed}"  # the models that later studies begin with
_JUDGED = ("samples",)  # studies that need the built-in world's judge
_ABOUT = {
    "retrieval": "documents in front, in training and when drawing",
    "masking": "spans within segments or across <break>",
    "sizes": "three models: loss against compute",
    "tuning": "each task before and after",
    "guidance": "guidance and contrastive decoding",
    "samples": "best of n, drawn in one way or two",
}


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Runs what is not complete, and prints where the tables are.

    Raises:
      FileNotFoundError: If `config.data` or `config.parts_of` names no folder.
      ValueError: If a study is unknown, or a stage fails.
    """
    root = pathlib.Path(workdir)
    for where in (config.data, config.parts_of):
        if where and not pathlib.Path(where).is_dir():
            raise FileNotFoundError(f"no folder {where}; name one, or leave it empty")
    planned = plan(config, root)
    if folder.start(config, workdir):
        stages.run(planned, root)
        names = [stage.name for stage in planned if stage.name in _ABOUT]
        tables = {name: str(root / name / "compare.txt") for name in names}
        storage.write_json(root / "tables.json", tables)
        folder.finish(workdir, tables)
    for name, path in storage.read_json(root / "tables.json").items():
        print(f"{name}: {path}")


def plan(config: ml_collections.ConfigDict, root: pathlib.Path) -> list[Stage]:
    """Returns the stages: those of a quickstart as far as its shards, then the studies.

    Raises:
      ValueError: If a study is unknown.
    """
    for name in config.studies:
        if name not in _ABOUT:
            hint = folder.nearest(name, [*_ABOUT])
            raise ValueError(f"studies: {name!r} is unknown; {hint}")
    found = quickstart.plan(root, config.preset, config.data)
    names = [stage.name for stage in found]
    found = [_own(stage, config) for stage in found[: names.index(_UNTIL) + 1]]
    if config.parts_of:
        found = [stage for stage in found if stage.name not in _TOKENIZERS]
    asked = [name for name in config.studies if not (config.data and name in _JUDGED)]
    return found + [_study(name, config, root) for name in asked]


def _own(stage: Stage, config: ml_collections.ConfigDict) -> Stage:
    """A stage of a quickstart with what these studies have of their own."""
    overrides = dict(stage.overrides)
    if stage.name == "scenes":
        overrides |= _flat(config.scenes.to_dict())
    if stage.name == "shards":
        overrides |= {} if config.data else _flat(config.shards.to_dict())
        for name, field in _TOKENIZERS.items():
            if config.parts_of:
                overrides[field] = str(pathlib.Path(config.parts_of) / name)
    return dataclasses.replace(stage, overrides=overrides)


def _flat(fields: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        here = f"{path}{name}"
        is_section = isinstance(value, Mapping)
        found |= _flat(value, f"{here}.") if is_section else {here: value}
    return found


def _study(name: str, config: ml_collections.ConfigDict, root: pathlib.Path) -> Stage:
    size = "debug" if config.preset == "debug" else "small"
    words = [name, size, *(["pictures"] if config.data else [])]
    models = root / "models"
    overrides = {
        "base.shards": str(root / _UNTIL),
        "evaluate.pictures.folder": config.data or str(root / "scenes"),
    }
    if name in ("guidance", "samples"):
        overrides["model"] = str(models / _SHARED)
    else:
        overrides["runs"] = str(models)
    if name == "tuning":
        overrides["base.init_from"] = str(models / _SHARED)
    return Stage(name, f"configs/compare.py:{','.join(words)}", overrides, _ABOUT[name])
