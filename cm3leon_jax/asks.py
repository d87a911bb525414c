"""What people ask of a model, as values, and the orders that the writer gets for it.

An `Ask` is one request in words and pictures; `KINDS` are the sorts of requests, each
with the prompt that training has taught. `order` makes what the writer takes of it, and
refuses what makes no sense, before anything is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.decoding import beam, prompts
from cm3leon_jax.decoding import writer as writers
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order, Writer
from cm3leon_jax.documents.document import Document, Modality
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.tasks import (
    caption,
    coco,
    depth,
    edges,
    edit,
    flickr30k,
    hed,
    layout,
    narratives,
    normals,
    okvqa,
    pair,
    paragraph,
    pose,
    row,
    scienceqa,
    scribble,
    segmentation,
    vizwiz,
    vqa,
    vqa2,
)
from cm3leon_jax.tasks import writing as written_words

Box = tuple[int, int, int, int]
BLANK = "<mask>"  # in the text of `complete`: where text is wanted
TURNS = {"text": Modality.TEXT, "picture": Modality.IMAGE}
CANDIDATE_STEP = 2**16  # between the seeds of the candidates of one result
MAX_CANDIDATES = 1_024


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request, in words and pictures.

    Attributes:
      kind: One of `KINDS`.
      text: The caption, question, instruction, or text with `<mask>` in it.
      picture: uint8[Y, X, 3] of any size, where the kind needs one; resized to the
        tokenizer's size (shorter side to it, middle cut out).
      box: x0, y0, x1, y1 in pixels of the resized picture: what is drawn anew. Cells of
        the code grid that it touches count whole.
      mask: The same as bool[Y, X], True is drawn anew: of the picture's own size, of
        the resized picture's, or one value a cell of the code grid.
      boxes: (name, x0, y0, x1, y1) in pixels of a picture of the tokenizer's size, for
        `layout`: what is to be where.
      choices: For `scienceqa`: what to choose from; the answer is a letter.
      hint: For `scienceqa`: what is to be known beside the question, or empty.
      parts: Texts and pictures in order, for `continue`.
      turns: What is to follow them: "text" and "picture" in any order.
      seed: The only source of randomness.
      retrieve: Documents looked up in the memory bank by the words of `text`.
      keep_documents: Whether the other streams of a guided picture have them too.
      max_text: The most text ids that are written, or of each turn's text.
      num_beams: Beginnings that a text is searched with; 1 draws it by `sampling`.
      best_of: Pictures drawn, of which the bi-encoder picks the one nearest to `text`;
        the seeds are `seed`, `seed + CANDIDATE_STEP`, ...
      mixed_with: How every second of them is drawn; the paper's best mixture is top-p
        here and CD-K there. None draws all by `sampling`.
      sampling: How ids are drawn.
    """

    kind: str
    text: str = ""
    picture: np.ndarray | None = None
    box: Box | None = None
    mask: np.ndarray | None = None
    boxes: tuple[tuple[str, float, float, float, float], ...] = ()
    choices: tuple[str, ...] = ()
    hint: str = ""
    parts: tuple[str | np.ndarray, ...] = ()
    turns: tuple[str, ...] = ()
    seed: int = 0
    retrieve: int = 0
    keep_documents: bool = False
    max_text: int = 47
    num_beams: int = 1
    best_of: int = 1
    mixed_with: Sampling | None = None
    sampling: Sampling = dataclasses.field(default_factory=Sampling)

    @property
    def words(self) -> str:
        """The words that documents are looked up by."""
        return self.text or " ".join(x for x in self.parts if isinstance(x, str))


def candidates(ask: Ask) -> list[tuple[int, Sampling]]:
    """Seed and sampling of every picture that is drawn for one result.

    Raises:
      ValueError: If there are several candidates of what is no picture.
    """
    if not 1 <= ask.best_of <= MAX_CANDIDATES:
        raise ValueError(f"best_of={ask.best_of} must be in 1 to {MAX_CANDIDATES}")
    if ask.best_of > 1 and not ask.words:
        raise ValueError("the best of several is the nearest to a text; give one")
    if ask.best_of > 1 and ask.kind in _WRITING:
        raise ValueError(f"best_of is for pictures, kind={ask.kind!r} writes text")
    if ask.mixed_with is not None and ask.best_of < 2:
        raise ValueError(
            "mixed_with needs best_of of at least 2; it draws every second"
        )
    how = (ask.sampling, ask.mixed_with or ask.sampling)
    return [
        (ask.seed + index * CANDIDATE_STEP, how[index % 2])
        for index in range(ask.best_of)
    ]


def order(
    ask: Ask, writer: Writer, coordinates: int, documents: Sequence[Document] = ()
) -> Order:
    """Returns what the writer takes.

    Args:
      ask: What is asked for.
      writer: Who will write it.
      coordinates: Steps a side of the grid in layouts, as the model was trained.
      documents: Retrieved ones.

    Raises:
      ValueError: If the request makes no sense.
    """
    if ask.kind not in KINDS:
        raise ValueError(f"kind={ask.kind!r} is not one of {', '.join(KINDS)}")
    needs_picture, parts = KINDS[ask.kind]
    if needs_picture and ask.picture is None:
        raise ValueError(f"kind={ask.kind!r} needs a picture; name one")
    if (len(ask.boxes) > 0) != (ask.kind == "layout"):
        raise ValueError(
            f"boxes belong to kind 'layout', which needs some: {ask.kind!r}"
        )
    if (len(ask.choices) > 0 or ask.hint) and ask.kind != scienceqa.NAME:
        raise ValueError(
            f"choices and hint belong to kind 'scienceqa', not {ask.kind!r}"
        )
    size = writer.image_size
    picture = None if ask.picture is None else writers.fit(ask.picture, size)
    given = _layout(ask, size, coordinates) if ask.boxes else parts(ask, picture)
    turns = _turns(ask)
    if turns:
        given = tuple(
            x if isinstance(x, str) else writers.fit(x, size) for x in ask.parts
        )
    return Order(
        parts=given,
        hidden_YX=_hidden(ask, size, writer.vocab.grid_size),
        turns=turns,
        documents=tuple(documents),
        keep_documents=ask.keep_documents,
        seed=ask.seed,
        sampling=ask.sampling,
        beams=beam.Beams(ask.num_beams) if ask.num_beams != 1 else None,
        max_text=ask.max_text,
    )


def parsed(kind: str, text: str | None) -> str | None:
    """What a task's words mean; the text that completes another stays as written."""
    parse = _PARSERS.get(kind)
    return parse(text) if parse and text is not None else text


def settings(ask: Ask) -> dict[str, Any]:
    """A request as JSON values: what was asked for, pictures left out.

    Fields that say nothing (no beams, no turns) are left out too.
    """
    found: dict[str, Any] = {
        "kind": ask.kind,
        "prompt": ask.text,
        "seed": ask.seed,
        "sampling": dataclasses.asdict(ask.sampling),
        "box": ask.box,
        "boxes": ask.boxes,
    }
    if ask.choices:
        found |= {"choices": ask.choices, "hint": ask.hint}
    if ask.mask is not None:
        found["mask_cells"] = int(np.asarray(ask.mask).sum())
    if ask.turns:
        found["parts"] = [x if isinstance(x, str) else "<picture>" for x in ask.parts]
        found["turns"] = list(ask.turns)
    for name in ("keep_documents", "num_beams", "best_of"):
        if getattr(ask, name) != getattr(Ask, name):
            found[name] = getattr(ask, name)
    return found


def _hidden(ask: Ask, size: int, grid: int) -> np.ndarray | None:
    """bool[G, G]: the cells that are drawn anew, or None."""
    given = (ask.box is not None) + (ask.mask is not None)
    if given != (ask.kind == "infill"):
        raise ValueError(
            "kind 'infill' needs a box or a mask, and a box belongs to kind 'infill'"
            f" alone: got {given} for {ask.kind!r}"
        )
    if ask.box is not None:
        return prompts.cells(ask.box, size, grid)
    if ask.mask is None or ask.picture is None:
        return None
    mask = np.asarray(ask.mask)
    if mask.shape == (grid, grid) and mask.dtype == bool:
        return mask
    if mask.dtype != bool or mask.shape not in (ask.picture.shape[:2], (size, size)):
        raise ValueError(
            f"the mask is {mask.dtype}{list(mask.shape)}; it must be bool, of the"
            f" picture's {ask.picture.shape[0]}x{ask.picture.shape[1]} pixels,"
            f" {size}x{size} pixels, or {grid}x{grid} cells"
        )
    grey = np.where(mask, np.uint8(255), np.uint8(0))
    fitted = writers.fit(np.repeat(grey[..., None], 3, axis=-1), size)[..., 0] > 0
    side = size // grid
    return np.asarray(fitted.reshape(grid, side, grid, side).any(axis=(1, 3)))


def _turns(ask: Ask) -> tuple[Modality, ...]:
    if (ask.kind == "continue") != bool(ask.turns) or bool(ask.turns) != bool(
        ask.parts
    ):
        raise ValueError(
            "kind 'continue' needs parts (texts and pictures) and turns, and they belong"
            f" to it alone: got {len(ask.parts)} parts and {len(ask.turns)} turns for"
            f" {ask.kind!r}"
        )
    unknown = [turn for turn in ask.turns if turn not in TURNS]
    if unknown:
        raise ValueError(f"turn {unknown[0]!r} is not one of {', '.join(TURNS)}")
    return tuple(TURNS[turn] for turn in ask.turns)


def _layout(ask: Ask, size: int, coordinates: int) -> tuple:
    boxes = [
        row.Box(name, (x0 / size, y0 / size, x1 / size, y1 / size))
        for name, x0, y0, x1, y1 in ask.boxes
    ]
    return layout.prompt(ask.text, boxes, coordinates=coordinates)


def _complete(ask: Ask, picture: np.ndarray | None) -> tuple:
    before, mark, after = ask.text.partition(BLANK)
    if not mark or BLANK in after:
        raise ValueError(
            f"text {ask.text!r} must have {BLANK} once: what is to be written"
        )
    parts = [part for part in (before, Hole(), after) if part != ""]
    return tuple(parts) if picture is None else (*parts, picture)


def _infill(ask: Ask, picture: np.ndarray | None) -> tuple:
    return (ask.text, picture) if ask.text else (picture,)


def _scienceqa(ask: Ask, picture: np.ndarray) -> tuple:
    asked = {"question": ask.text, "choices": list(ask.choices), "hint": ask.hint}
    return scienceqa.prompt(asked, picture)


_CONTROLS = (depth, edges, hed, normals, pose, scribble, segmentation)
_CAPTIONS = (coco, flickr30k, narratives, paragraph)
_QUESTIONS = (okvqa, vizwiz, vqa2)
_Parts = Callable[[Ask, Any], tuple]


def _of_tasks() -> dict[str, tuple[bool, _Parts]]:
    """The tasks of three forms, each with its own words."""
    forms: tuple[tuple[Sequence[Any], Callable[[Any], _Parts]], ...] = (
        (_CAPTIONS, lambda prompt: lambda ask, picture: prompt(picture)),
        (_CONTROLS, lambda prompt: lambda ask, picture: prompt(picture, ask.text)),
        (_QUESTIONS, lambda prompt: lambda ask, picture: prompt(ask.text, picture)),
    )
    return {
        task.NAME: (True, parts(task.prompt))
        for tasks, parts in forms
        for task in tasks
    }


# Whether a kind needs a picture, and the parts of its prompt. Beside what people ask for,
# every task of the paper by its own name, with its own words.
KINDS: dict[str, tuple[bool, _Parts]] = {
    "draw": (False, lambda ask, picture: pair.prompt(ask.text)),
    "caption": (True, lambda ask, picture: caption.prompt(picture)),
    "caption_long": (True, lambda ask, picture: caption.prompt(picture, is_long=True)),
    "answer": (True, lambda ask, picture: vqa.prompt(ask.text, picture)),
    "edit": (True, lambda ask, picture: edit.prompt(picture, ask.text)),
    "layout": (False, lambda ask, picture: pair.prompt(ask.text)),  # see `_layout`
    "infill": (True, _infill),
    "complete": (False, _complete),
    "continue": (False, lambda ask, picture: ()),  # see `order`
    "writing": (False, lambda ask, picture: written_words.prompt(ask.text)),
    "scienceqa": (True, _scienceqa),
    **_of_tasks(),
}
_PARSERS: dict[str, Callable[[str], str]] = {
    "caption": caption.parse,
    "caption_long": caption.parse,
    "answer": vqa.parse,
    **{each.NAME: each.parse for each in (*_CAPTIONS, *_QUESTIONS, scienceqa)},
}
_WRITING = ("complete", "continue", *_PARSERS)
