"""The face for Python users: a trained model that draws, describes, edits and fills in.

    model = api.load("runs/quickstart")
    pictures = model.draw("a red circle at the top left", n=4, guidance=3.0, retrieve=2)
    model.caption(picture)
    model.answer(picture, "what colour is the circle?")
    model.edit(picture, "make the red circle green")
    model.infill(picture, box=(0, 0, 32, 32), text="a red circle at the top left")

`Ask` is the same as a value, which files of requests hold; `Model.fulfil` takes many at
once, which is much faster than one at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cm3leon_jax.data import trained as trained_models
from cm3leon_jax.data.bank import Bank, Found
from cm3leon_jax.decoding import engine, prompts
from cm3leon_jax.decoding import writer as writers
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order, Writer
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.models import transformer
from cm3leon_jax.tasks import caption, edit, layout, pair, row, segmentation, vqa
from cm3leon_jax.train import checkpoint

Box = tuple[int, int, int, int]
BLANK = "<mask>"  # in the text of `complete`: where text is wanted


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
      boxes: (name, x0, y0, x1, y1) in pixels of a picture of the tokenizer's size, for
        `layout`: what is to be where.
      seed: The only source of randomness.
      retrieve: Documents looked up in the memory bank by the words of `text`.
      keep_documents: Whether the unconditional stream has them too.
      max_text: The most text ids that are written.
      sampling: How ids are drawn.
    """

    kind: str
    text: str = ""
    picture: np.ndarray | None = None
    box: Box | None = None
    boxes: tuple[tuple[str, float, float, float, float], ...] = ()
    seed: int = 0
    retrieve: int = 0
    keep_documents: bool = False
    max_text: int = 47
    sampling: Sampling = dataclasses.field(default_factory=Sampling)


@dataclasses.dataclass(frozen=True)
class Made:
    """What came of a request: a text or a picture uint8[Y, X, 3], and from where."""

    text: str | None
    picture: np.ndarray | None
    provenance: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model with its tokenizers and, if there is one, its memory bank.

    Attributes:
      writer: The model with its tokenizers.
      digest: Of the checkpoint.
      coordinates: Steps a side of the grid in layouts, as the model was trained.
      bank: Documents to retrieve, or None.
      embed_text: From strings to unit vectors, for retrieval; None without a bank.
      embed_pictures: From uint8[N, Y, X, 3] to unit vectors, likewise.
    """

    writer: Writer
    digest: str
    coordinates: int = layout.COORDINATES
    bank: Bank | None = None
    embed_text: Callable[[Sequence[str]], np.ndarray] | None = None
    embed_pictures: Callable[[np.ndarray], np.ndarray] | None = None

    def draw(
        self,
        text: str,
        n: int = 1,
        *,
        seed: int = 0,
        retrieve: int = 0,
        keep_documents: bool = False,
        **sampling: float,
    ) -> np.ndarray:
        """Draws pictures from a text.

        Args:
          text: What to draw.
          n: How many; their seeds are `seed`, `seed + 1`, ...
          seed: Of the first.
          retrieve: Documents to look up by the text and put in front.
          keep_documents: Whether the unconditional stream has them too.
          **sampling: Fields of `Sampling`: temperature, top_k, top_p, guidance,
            contrast_k, ...

        Returns:
          uint8[n, Y, X, 3].
        """
        how = Sampling(**sampling)
        asks = [
            Ask(
                "draw",
                text,
                seed=seed + index,
                retrieve=retrieve,
                keep_documents=keep_documents,
                sampling=how,
            )
            for index in range(n)
        ]
        return np.stack([made.picture for made in self.fulfil(asks)])

    def caption(self, picture: np.ndarray, **options: Any) -> str:
        """Describes a picture; options are fields of `Ask` and of `Sampling`."""
        return self._one("caption", picture=picture, **options).text or ""

    def answer(self, picture: np.ndarray, question: str, **options: Any) -> str:
        """Answers a question about a picture; options as for `caption`."""
        return self._one("answer", picture=picture, text=question, **options).text or ""

    def edit(self, picture: np.ndarray, instruction: str, **options: Any) -> np.ndarray:
        """Changes a picture as told; `image_guidance` and `guidance` are two scales."""
        return self._one("edit", picture=picture, text=instruction, **options).picture

    def infill(
        self, picture: np.ndarray, box: Box, text: str = "", **options: Any
    ) -> np.ndarray:
        """Draws a box x0, y0, x1, y1 of a picture anew, by the text if there is one."""
        return self._one(
            "infill", picture=picture, box=box, text=text, **options
        ).picture

    def complete(self, text: str, picture: np.ndarray | None = None, **options) -> str:
        """Writes what stands for `<mask>` in a text, with a picture beside it or not."""
        return self._one("complete", text=text, picture=picture, **options).text or ""

    def fulfil(
        self,
        asks: Sequence[Ask],
        report: Callable[[int], None] = lambda number: None,
    ) -> list[Made]:
        """Fulfils many requests at once, in their order.

        Raises:
          ValueError: If one cannot be fulfilled; `check` tells which.
        """
        found = self._retrieved(asks)
        orders = [self._order(*pair) for pair in zip(asks, found, strict=True)]
        results = self.writer.run(orders, report)
        return [
            Made(
                _parsed(ask.kind, result.text),
                result.picture,
                self._provenance(ask, near),
            )
            for ask, near, result in zip(asks, found, results, strict=True)
        ]

    def check(self, ask: Ask) -> None:
        """Refuses a request that cannot be fulfilled (ValueError)."""
        self.writer.check(self._order(ask, self._retrieved([ask])[0]))

    def _one(self, kind: str, **options: Any) -> Made:
        names = {field.name for field in dataclasses.fields(Sampling)}
        how = {name: value for name, value in options.items() if name in names}
        rest = {name: value for name, value in options.items() if name not in names}
        return self.fulfil([Ask(kind, sampling=Sampling(**how), **rest)])[0]

    def _retrieved(self, asks: Sequence[Ask]) -> list[list[Found]]:
        """The documents of every request, looked up in one search a count."""
        found: list[list[Found]] = [[] for _ in asks]
        for count in sorted({ask.retrieve for ask in asks} - {0}):
            if self.bank is None or self.embed_text is None:
                raise ValueError(
                    f"retrieve={count}, but this model has no memory bank; set"
                    " retrieve=0, or load a run that has one"
                )
            members = [i for i, ask in enumerate(asks) if ask.retrieve == count]
            vectors = self.embed_text([asks[i].text for i in members])
            for i, near in zip(members, self.bank.find(vectors, count), strict=True):
                found[i] = near
        return found

    def _order(self, ask: Ask, found: Sequence[Found]) -> Order:
        if ask.kind not in KINDS:
            raise ValueError(f"kind={ask.kind!r} is not one of {', '.join(KINDS)}")
        needs_picture, parts = KINDS[ask.kind]
        if needs_picture and ask.picture is None:
            raise ValueError(f"kind={ask.kind!r} needs a picture; name one")
        if (ask.box is not None) != (ask.kind == "infill"):
            raise ValueError(f"a box belongs to kind 'infill' alone, got {ask.kind!r}")
        size = self.writer.image_size
        picture = None if ask.picture is None else writers.fit(ask.picture, size)
        if (len(ask.boxes) > 0) != (ask.kind == "layout"):
            raise ValueError(
                f"boxes belong to kind 'layout', which needs some: {ask.kind!r}"
            )
        vocab = self.writer.vocab
        return Order(
            parts=self._layout(ask) if ask.boxes else parts(ask.text, picture),
            hidden_YX=None
            if ask.box is None
            else prompts.cells(ask.box, size, vocab.grid_size),
            documents=tuple(near.record.document(vocab) for near in found),
            keep_documents=ask.keep_documents,
            seed=ask.seed,
            sampling=ask.sampling,
            max_text=ask.max_text,
        )

    def _layout(self, ask: Ask) -> tuple:
        size = self.writer.image_size
        boxes = [
            row.Box(name, tuple(corner / size for corner in corners))
            for name, *corners in ask.boxes
        ]
        return layout.prompt(ask.text, boxes, coordinates=self.coordinates)

    def _provenance(self, ask: Ask, found: Sequence[Found]) -> dict[str, Any]:
        return {
            "kind": ask.kind,
            "prompt": ask.text,
            "seed": ask.seed,
            "sampling": dataclasses.asdict(ask.sampling),
            "box": ask.box,
            "boxes": ask.boxes,
            "checkpoint": self.digest,
            "retrieved": [near.provenance() for near in found],
        }


def _parsed(kind: str, text: str | None) -> str | None:
    """What a task's words mean; the text that completes another stays as written."""
    parse = {"caption": caption.parse, "answer": vqa.parse}.get(kind)
    return parse(text) if parse and text is not None else text


def _complete(text: str, picture: np.ndarray | None) -> tuple:
    before, mark, after = text.partition(BLANK)
    if not mark or BLANK in after:
        raise ValueError(f"text {text!r} must have {BLANK} once: what is to be written")
    parts = [part for part in (before, Hole(), after) if part != ""]
    return tuple(parts) if picture is None else (*parts, picture)


def _infill(text: str, picture: np.ndarray | None) -> tuple:
    return (text, picture) if text else (picture,)


# Whether a kind needs a picture, and the parts of its prompt.
KINDS: dict[str, tuple[bool, Callable[[str, np.ndarray | None], tuple]]] = {
    "draw": (False, lambda text, picture: pair.prompt(text)),
    "caption": (True, lambda text, picture: caption.prompt(picture)),
    "caption_long": (True, lambda text, picture: caption.prompt(picture, is_long=True)),
    "answer": (True, lambda text, picture: vqa.prompt(text, picture)),
    "edit": (True, lambda text, picture: edit.prompt(picture, text)),
    "segmentation": (True, lambda text, picture: segmentation.prompt(picture, text)),
    "layout": (False, lambda text, picture: pair.prompt(text)),  # see `_layout`
    "infill": (True, _infill),
    "complete": (False, _complete),
}


def load(
    path: str | pathlib.Path,
    *,
    shapes: engine.Shapes = engine.DEFAULT_SHAPES,
    with_bank: bool = True,
) -> Model:
    """Loads a trained model with the tokenizers and the memory bank of its shards.

    Args:
      path: Folder of a training job, of a quickstart (its instruction-tuned model,
        else its pretrained one), or of an exported model, which has no bank.
      shapes: Padded shapes of the engine.
      with_bank: Whether to read embedder and bank, if the run has them.

    Raises:
      FileNotFoundError: If there is no checkpoint, or a part of the run is gone.
      ValueError: If tokenizers and shards do not belong together, or a file is damaged.
    """
    trained = trained_models.load(path)
    writer = Writer(
        model=transformer.unstack(trained.model),
        vocab=trained.info.vocab,
        encode_text=trained.texts.encode,
        decode_text=trained.texts.decode,
        num_text_pieces=trained.texts.vocab_size,
        encode_pictures=trained.images.encode,
        decode_pictures=trained.images.decode,
        image_size=trained.images.image_size,
        shapes=shapes,
    )
    loaded = Model(writer, _digest(trained.model), trained.coordinates)
    found = trained_models.load_bank(path) if with_bank else None
    if found is None:
        return loaded
    bank, embedder = found
    return dataclasses.replace(
        loaded,
        bank=bank,
        embed_text=embedder.embed_text,
        embed_pictures=embedder.embed_pictures,
    )


def _digest(model: transformer.Transformer) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, array in sorted(checkpoint.flatten(model).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
