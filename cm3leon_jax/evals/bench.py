"""What the built-in world's numbers are made of: a model, its cases, what came out.

A case is a row of the test split (`read_cases`). `Bench` draws, writes and judges, all
cases of a number at once. `scenes` says what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from cm3leon_jax.decoding import writer as writers
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order, Result, Writer
from cm3leon_jax.documents.document import Document
from cm3leon_jax.scenes import judge, language
from cm3leon_jax.scenes.questions import Question
from cm3leon_jax.scenes.world import Scene, WorldConfig

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SceneEvalConfig:
    """What is measured, and how ids are drawn.

    Attributes:
      parts: Names from `scenes.PARTS`: what is measured.
      num_cases: Cases of every number; all there are, if fewer.
      num_samples: Drawings of which the bi-encoder picks one.
      drawing: For pictures.
      writing: For texts.
      guided: For `objects_guided`. Likewise `contrastive`.
      varied: For the drawings of which one is picked.
      mixed: For every second one of `samples`.
      max_caption: Most text ids of a caption.
      max_answer: Most text ids of an answer.
      coordinates: Steps a side in layouts, as the shards were made with.
      seed: Decides questions, edits and hidden objects, and the seeds of drawings.
    """

    parts: tuple[str, ...]
    num_cases: int
    num_samples: int
    drawing: Sampling
    writing: Sampling
    guided: Sampling
    contrastive: Sampling
    varied: Sampling
    mixed: Sampling
    max_caption: int
    max_answer: int
    coordinates: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Case:
    """One held-out picture: its caption, scene, pixels uint8[Y, X, 3], questions."""

    text: str
    scene: Scene
    picture: np.ndarray
    questions: tuple[Question, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sample:
    """One case as a person looks at it.

    Attributes:
      key: The number that it belongs to.
      prompt: What was asked, in words.
      score: 0 to 1.
      expected: The right text, or the caption of the right picture.
      written: The text that came out, or what the judge read, as a caption.
      given: The picture that was given, or None.
      drawn: The picture that came out, or None.
      neighbours: Places in the memory bank of the documents in front.
    """

    key: str
    prompt: str
    score: float
    expected: str
    written: str
    given: np.ndarray | None = None
    drawn: np.ndarray | None = None
    neighbours: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Bench:
    """A model and what it is measured with.

    Attributes:
      writer: The model with its tokenizers.
      world: What there can be.
      config: What is measured.
      retrieve: From prompts and a number n to the places of n documents in the bank,
        best first, by the words alone.
      document: From a place in the bank to its document.
      embed_text: From strings to unit vectors float32[n, E].
      embed_pictures: From uint8[n, Y, X, 3] to unit vectors.
    """

    writer: Writer
    world: WorldConfig
    config: SceneEvalConfig
    retrieve: Callable[[Sequence[str], int], list[tuple[int, ...]]]
    document: Callable[[int], Document]
    embed_text: Callable[[Sequence[str]], np.ndarray]
    embed_pictures: Callable[[np.ndarray], np.ndarray]

    def draw(
        self,
        parts: Sequence[tuple],
        sampling: Sampling,
        neighbours: Sequence[tuple[int, ...]] | None = None,
        hidden: Sequence[np.ndarray] | None = None,
        first_seed: int = 0,
    ) -> tuple[np.ndarray, list[Scene]]:
        """Pictures uint8[N, Y, X, 3], one an order, and what the judge reads."""
        orders = [
            Order(
                parts=each,
                sampling=sampling,
                seed=self.config.seed + first_seed + index,
                documents=tuple(
                    self.document(place)
                    for place in (neighbours[index] if neighbours else ())
                ),
                hidden_YX=hidden[index] if hidden else None,
            )
            for index, each in enumerate(parts)
        ]
        pictures = np.stack([writers.drawn(each.picture) for each in self._run(orders)])
        return pictures, judge.read_all(pictures, self.world)

    def write(self, parts: Sequence[tuple], max_text: int) -> list[str]:
        """Texts, stripped, one an order."""
        orders = [
            Order(
                each,
                sampling=self.config.writing,
                seed=self.config.seed + index,
                max_text=max_text,
            )
            for index, each in enumerate(parts)
        ]
        return [(result.text or "").strip() for result in self._run(orders)]

    def _run(self, orders: Sequence[Order]) -> list[Result]:
        """Results; what the model has no room for is counted as nothing made."""
        possible, reason = [], ""
        for order in orders:
            try:
                self.writer.check(order)
                possible.append(True)
            except ValueError as error:
                possible.append(False)
                reason = str(error)
        if reason:
            _LOGGER.warning(
                "%d of %d cases count as wrong: %s",
                possible.count(False),
                len(orders),
                reason,
            )
        chosen = [o for o, fits in zip(orders, possible, strict=True) if fits]
        results = iter(self.writer.run(chosen) if chosen else [])
        size = self.world.image_size
        nothing = Result(text="", picture=np.zeros((size, size, 3), np.uint8))
        return [next(results) if fits else nothing for fits in possible]

    def caption(self, scene: Scene) -> str:
        """What the judge read, in words."""
        is_empty = not scene.things and scene.emblem is None and scene.sign is None
        if is_empty:
            return "nothing"
        if scene.emblem is not None:  # its name cannot be seen
            look, wall = scene.emblem, scene.background.colours[0]
            charge = f"{look.colour} {look.charge}"
            return f"{charge} in a {look.field} field on a {wall} wall"
        return language.caption(scene, self.world)


# Numbers by name, and samples.
Outcome = tuple[dict[str, float], list[Sample]]


def read_cases(folder: pathlib.Path) -> list[Case]:
    """Reads a split that the job `scenes` wrote.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If a row was not written by it.
    """
    metadata = folder / "metadata.jsonl"
    if not metadata.exists():
        raise FileNotFoundError(f"no {metadata}; run the job `scenes` first")
    cases = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if "scene" not in row:
            raise ValueError(
                f"{metadata}:{number} has no scene; it is another data set"
            )
        with Image.open(folder / row["file_name"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        questions = tuple(Question(**each) for each in row["questions"])
        scene = Scene.from_json(row["scene"])
        cases.append(Case(row["text"], scene, pixels, questions))
    return cases
