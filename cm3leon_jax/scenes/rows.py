"""All that is written about one picture: the rows of the world as a dataset.

A row depends on the world, the split, its number and the settings alone, never on other
rows, so that an interrupted job continues anywhere and workers may share the rows.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np

from cm3leon_jax.scenes import (
    annotations,
    drawing,
    edits,
    emblems,
    language,
    questions,
    sampling,
)
from cm3leon_jax.scenes.world import Scene, WorldConfig

SOURCE, LICENCE = "cm3leon built-in scenes", "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class RowConfig:
    """What each split holds and what is said about a picture.

    Attributes:
      num_train: Rows of the train split.
      num_validation: Rows of the validation split.
      num_test: Rows of the test split, prompts for measured emblems among them.
      emblem_share: Share of emblems in train and validation rows; no picture of an
        emblem is written twice, so a large split may hold a smaller share.
      test_emblem_share: The same for the test split, where they are prompts.
      num_questions: Questions a row.
      edit_share: Share of scenes with an edit triple.
      map_share: Share of pictures with segmentation, edges and scribble.
      seed: Decides which scenes are drawn.
    """

    num_train: int
    num_validation: int
    num_test: int
    emblem_share: float
    test_emblem_share: float
    num_questions: int
    edit_share: float
    map_share: float
    seed: int

    def __post_init__(self):
        shares = {
            name: getattr(self, name)
            for name in ("emblem_share", "test_emblem_share", "edit_share", "map_share")
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must lie between 0 and 1")
        counts = (self.num_train, self.num_validation, self.num_test)
        if min(counts) < 1:
            raise ValueError(
                f"{counts=} of train, validation and test must be at least 1"
            )


@dataclasses.dataclass(frozen=True)
class Row:
    """A record for `metadata.jsonl` without file names, and its pictures by name.

    `pictures` holds `""` (the picture itself) and, where the row has them, `edit` (after
    the instruction), `segmentation`, `edges`, `scribble`: uint8[Y, X, 3] each.
    """

    record: dict[str, Any]
    pictures: dict[str, np.ndarray]


def count(world: WorldConfig, config: RowConfig, split: str) -> int:
    """Rows of a split; the bank holds every picture that it can."""
    if split == "bank":
        return len(emblems.scenes(world, "bank"))
    return {
        "train": config.num_train,
        "validation": config.num_validation,
        "test": config.num_test,
    }[split]


def scene_at(world: WorldConfig, config: RowConfig, split: str, index: int) -> Scene:
    """The scene of a row; emblems are spread evenly over the rows."""
    total, num_emblems = count(world, config, split), _num_emblems(world, config, split)
    first = index * num_emblems // total
    if (index + 1) * num_emblems // total > first:
        return emblems.shuffled_scenes(world, split, config.seed)[first]
    return sampling.sample(world, split, _rng(config, split, index, "scene"))


def row_at(world: WorldConfig, config: RowConfig, split: str, index: int) -> Row:
    """Everything about a row; the same arguments give the same row."""
    scene = scene_at(world, config, split, index)
    rng = _rng(config, split, index, "row")
    pictures = {"": drawing.draw(scene, world)}
    asked = questions.ask(scene, world, rng, config.num_questions)
    record: dict[str, Any] = {
        "text": language.caption(scene, world),
        "text_long": language.long_caption(scene, world),
        "source": SOURCE,
        "licence": LICENCE,
        "kind": "scene" if scene.emblem is None else "emblem",
        "has_held_out_pair": sampling.has_held_out(scene, world),
        "scene": scene.to_json(),
        "boxes": annotations.boxes(scene, world),
        "questions": [dict(vars(question)) for question in asked],
    }
    if scene.emblem is None and rng.random() < config.edit_share:
        edit = edits.propose(scene, world, split, rng)
        if edit is not None:
            after = edit.after.to_json()
            record["edit"] = {"instruction": edit.instruction, "scene": after}
            pictures["edit"] = drawing.draw(edit.after, world)
    if rng.random() < config.map_share:
        _add_maps(record, pictures, scene, world)
    if scene.sign is not None:
        record["writing"] = scene.sign.text
    return Row(record, pictures)


def _add_maps(record, pictures, scene: Scene, world: WorldConfig) -> None:
    picture = pictures[""]
    pictures["segmentation"], legend = annotations.segmentation(scene, world)
    pictures["edges"] = annotations.edges(picture)
    pictures["scribble"] = annotations.scribble(picture)
    names = [{"name": name, "colour": colour} for name, colour in legend.items()]
    record["segmentation"] = {"legend": names}
    record["edges"], record["scribble"] = {}, {}


def _num_emblems(world: WorldConfig, config: RowConfig, split: str) -> int:
    available = len(emblems.scenes(world, split))
    if split == "bank":
        return available
    share = config.test_emblem_share if split == "test" else config.emblem_share
    return min(available, round(share * count(world, config, split)))


def _rng(config: RowConfig, split: str, index: int, what: str) -> random.Random:
    return random.Random(f"{what}/{config.seed}/{split}/{index}")
