"""The face for Python users: a trained model that draws, describes, edits and fills in.

    model = api.load("runs/quickstart")
    pictures = model.draw("a red circle at the top left", n=4, guidance=3.0, retrieve=2)
    model.caption(picture)
    model.answer(picture, "what colour is the circle?")
    model.edit(picture, "make the red circle green")
    model.infill(picture, box=(0, 0, 32, 32), text="a red circle at the top left")
    model.follow("edges", lines.edges(photo), "a red circle at the top left")
    model.draw("a red circle", best_of=8, mixed_with=api.Sampling(contrast_k=4))
    model.go_on(["a red circle", picture, "a"], turns=["text", "picture"])

`Ask` is the same as a value, which files of requests hold; `Model.fulfil` takes many at
once, which is much faster than one at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cm3leon_jax import asks as asking
from cm3leon_jax import sharding
from cm3leon_jax.asks import Ask, Box
from cm3leon_jax.data import trained as trained_models
from cm3leon_jax.data.bank import Bank, Found
from cm3leon_jax.decoding import engine, rerank
from cm3leon_jax.decoding import writer as writers
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order, Result, Writer
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.models import int8, transformer
from cm3leon_jax.tasks import layout
from cm3leon_jax.train import checkpoint

KINDS = asking.KINDS
PRECISIONS = ("trained", "int8", "int8_and_cache")


@dataclasses.dataclass(frozen=True)
class Made:
    """What came of a request.

    Attributes:
      text: The text, or None.
      picture: The picture, uint8[Y, X, 3], or None.
      provenance: What it was made from, as JSON values.
      turns: Texts and pictures in order, if turns were asked for.
    """

    text: str | None
    picture: np.ndarray | None
    provenance: dict[str, Any]
    turns: tuple[str | np.ndarray, ...] = ()


@dataclasses.dataclass(frozen=True)
class Near:
    """A document of the memory bank as a person sees it: words, picture, its origin."""

    text: str
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
        **options: Any,
    ) -> np.ndarray:
        """Draws pictures from a text.

        Args:
          text: What to draw.
          n: How many; their seeds are `seed`, `seed + 1`, ...
          seed: Of the first.
          **options: Fields of `Ask` (retrieve, keep_documents, best_of, mixed_with)
            and of `Sampling` (temperature, top_p, guidance, contrast_k, ...).

        Returns:
          uint8[n, Y, X, 3].
        """
        first = _ask("draw", text=text, seed=seed, **options)
        asks = [dataclasses.replace(first, seed=seed + index) for index in range(n)]
        return np.stack([writers.drawn(made.picture) for made in self.fulfil(asks)])

    def caption(self, picture: np.ndarray, **options: Any) -> str:
        """Describes a picture; options are fields of `Ask` and of `Sampling`."""
        return self._one("caption", picture=picture, **options).text or ""

    def answer(self, picture: np.ndarray, question: str, **options: Any) -> str:
        """Answers a question about a picture; options as for `caption`."""
        return self._one("answer", picture=picture, text=question, **options).text or ""

    def edit(self, picture: np.ndarray, instruction: str, **options: Any) -> np.ndarray:
        """Changes a picture as told; `image_guidance` and `guidance` are two scales."""
        made = self._one("edit", picture=picture, text=instruction, **options)
        return writers.drawn(made.picture)

    def infill(
        self,
        picture: np.ndarray,
        box: Box | None = None,
        text: str = "",
        *,
        mask: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Draws a part of a picture anew, by the text if there is one.

        Args:
          picture: uint8[Y, X, 3].
          box: x0, y0, x1, y1 of the part; or
          mask: bool[Y, X], any shape of it; see `Ask`.
          text: What the whole picture shows.
          **options: As for `caption`.
        """
        where = {"box": box, "mask": mask}
        made = self._one("infill", picture=picture, text=text, **where, **options)
        return writers.drawn(made.picture)

    def follow(
        self, kind: str, control: np.ndarray, text: str = "", **options: Any
    ) -> np.ndarray:
        """Draws a picture that follows another one.

        Args:
          kind: What the other one shows: "edges", "segmentation", "depth", "pose",
            "scribble", "hed", "normals".
          control: uint8[Y, X, 3] of any size; `tasks.lines.edges` and `.scribble` make
            one of a photo.
          text: What to draw, or empty.
          **options: As for `caption`.
        """
        made = self._one(kind, picture=control, text=text, **options)
        return writers.drawn(made.picture)

    def complete(self, text: str, picture: np.ndarray | None = None, **options) -> str:
        """Writes what stands for `<mask>` in a text, with a picture beside it or not."""
        return self._one("complete", text=text, picture=picture, **options).text or ""

    def go_on(
        self,
        parts: Sequence[str | np.ndarray],
        turns: Sequence[str],
        **options: Any,
    ) -> tuple[str | np.ndarray, ...]:
        """Continues a document of texts and pictures.

        Args:
          parts: What is there.
          turns: What is to follow, "text" or "picture" each. A text after a text goes
            on with it.
          **options: As for `caption`.
        """
        given = {"parts": tuple(parts), "turns": tuple(turns)}
        return self._one("continue", **given, **options).turns

    def perplexity(self, parts: Sequence[str | np.ndarray]) -> dict[str, float]:
        """How well the model expects a document: the trainer's own measure of it.

        Args:
          parts: Texts and pictures in order.

        Returns:
          `text` and `image`, where the document has any.
        """
        return self.writer.perplexity(tuple(parts))

    def fulfil(
        self,
        asks: Sequence[Ask],
        report: Callable[[int], None] = lambda number: None,
    ) -> list[Made]:
        """Fulfils many requests at once, in their order.

        Args:
          asks: Any mixture.
          report: Called with the number of pictures and texts finished, batch by batch;
            a result that is the best of n counts n times.

        Raises:
          ValueError: If one cannot be fulfilled; `check` tells which.
        """
        found = self._retrieved(asks)
        drawn = [self._candidates(*pair) for pair in zip(asks, found, strict=True)]
        orders = [each for orders in drawn for each in orders]
        results = iter(self.writer.run(orders, report))
        made = []
        for ask, near, orders in zip(asks, found, drawn, strict=True):
            several = [next(results) for _ in orders]
            best, how = self._best(ask, several)
            chosen = dataclasses.replace(
                ask, seed=orders[best].seed, sampling=orders[best].sampling
            )
            made.append(self._made(chosen, near, several[best], how))
        return made

    def stream(self, asks: Sequence[Ask]) -> Iterator[list[Made]]:
        """Yields what is made so far, a row of codes at a time; the last is whole.

        Args:
          asks: Alike, as samples of one prompt are.

        Raises:
          ValueError: If they cannot be fulfilled, or not bit by bit (best of several,
            beams, turns).
        """
        if any(ask.best_of > 1 for ask in asks):
            raise ValueError("the best of several is known at the end; use fulfil")
        found = self._retrieved(asks)
        orders = [self._order(*pair) for pair in zip(asks, found, strict=True)]
        for results in self.writer.stream(orders):
            yield [
                self._made(*each, {}) for each in zip(asks, found, results, strict=True)
            ]

    def near(self, text: str, count: int) -> list[Near]:
        """Returns the documents that `retrieve=count` puts in front of a text."""
        writer, found = self.writer, []
        for each in self._retrieved([Ask("draw", text, retrieve=count)])[0]:
            segments = each.record.document(writer.vocab).segments
            words = [s.ids.tolist() for s in segments if s.modality == Modality.TEXT]
            codes = [
                writer.vocab.codes(s.ids)
                for s in segments
                if s.modality == Modality.IMAGE
            ]
            picture = writer.decode_pictures(np.stack(codes[:1]))[0] if codes else None
            text = " ".join(map(writer.decode_text, words))
            found.append(Near(text, picture, each.provenance()))
        return found

    def check(self, ask: Ask) -> None:
        """Refuses a request that cannot be fulfilled (ValueError)."""
        orders = self._candidates(ask, self._retrieved([ask])[0])
        if ask.best_of > 1 and self.embed_pictures is None:
            raise ValueError(
                f"best_of={ask.best_of} needs a bi-encoder, which this model has not; set"
                " best_of=1, or load a run that has one"
            )
        for order in orders[:2]:
            self.writer.check(order)

    def _one(self, kind: str, **options: Any) -> Made:
        return self.fulfil([_ask(kind, **options)])[0]

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
            vectors = self.embed_text([asks[i].words for i in members])
            for i, near in zip(members, self.bank.find(vectors, count), strict=True):
                found[i] = near
        return found

    def _candidates(self, ask: Ask, found: Sequence[Found]) -> list[Order]:
        order = self._order(ask, found)
        return [
            dataclasses.replace(order, seed=seed, sampling=how)
            for seed, how in asking.candidates(ask)
        ]

    def _order(self, ask: Ask, found: Sequence[Found]) -> Order:
        vocab = self.writer.vocab
        documents = [near.record.document(vocab) for near in found]
        return asking.order(ask, self.writer, self.coordinates, documents)

    def _best(self, ask: Ask, results: Sequence[Result]) -> tuple[int, dict[str, Any]]:
        """The place of the picture that is nearest to its text, and how near."""
        if len(results) == 1:
            return 0, {}
        if self.embed_text is None or self.embed_pictures is None:
            raise ValueError("the best of several is picked by a bi-encoder; load one")
        pictures = np.stack([writers.drawn(each.picture) for each in results])[None]
        near_N = rerank.similarities(
            [ask.words], pictures, self.embed_text, self.embed_pictures
        )[0]
        best = int(near_N.argmax())
        return best, {"similarity": round(float(near_N[best]), 4), "candidate": best}

    def _made(
        self, ask: Ask, found: Sequence[Found], result: Result, how: dict[str, Any]
    ) -> Made:
        provenance = asking.settings(ask) | {
            "checkpoint": self.digest,
            "retrieved": [near.provenance() for near in found],
        }
        text = asking.parsed(ask.kind, result.text)
        return Made(text, result.picture, provenance | how, result.turns)


def _ask(kind: str, **options: Any) -> Ask:
    """An `Ask` of options that are its own fields or those of `Sampling`."""
    names = {field.name for field in dataclasses.fields(Sampling)}
    how = {name: value for name, value in options.items() if name in names}
    rest = {name: value for name, value in options.items() if name not in names}
    return Ask(kind, **({"sampling": Sampling(**how)} if how else {}), **rest)


def load(
    path: str | pathlib.Path,
    *,
    shapes: engine.Shapes = engine.DEFAULT_SHAPES,
    with_bank: bool = True,
    precision: str = "trained",
    mesh: sharding.MeshConfig | None = None,
) -> Model:
    """Loads a trained model with the tokenizers and the memory bank of its shards.

    Args:
      path: Folder of a training job, of a quickstart (its instruction-tuned model,
        else its pretrained one), or of an exported model, which has no bank.
      shapes: Padded shapes of the engine.
      with_bank: Whether to read embedder and bank, if the run has them.
      precision: One of `PRECISIONS`: the weights as they were trained, or in 8 bits,
        or the cache too. Pictures change a little.
      mesh: How this process's devices share requests (`data`) and the model (`fsdp`,
        `tensor`); by default every accelerator has a copy, and a CPU computes as one.

    Raises:
      FileNotFoundError: If there is no checkpoint, or a part of the run is gone.
      ValueError: If tokenizers and shards do not belong together, a file is damaged,
        the precision is unknown, or the devices do not divide as the mesh says.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"{precision=} is not one of {', '.join(PRECISIONS)}")
    trained = trained_models.load(path)
    model = transformer.unstack(trained.model)
    if precision != "trained":
        model = int8.round_weights(model, cache=precision == "int8_and_cache")
    devices = engine.local_mesh(mesh)
    writer = Writer(
        model=model if devices is None else engine.place(model, devices),
        vocab=trained.info.vocab,
        encode_text=trained.texts.encode,
        decode_text=trained.texts.decode,
        num_text_pieces=trained.texts.vocab_size,
        encode_pictures=trained.images.encode,
        decode_pictures=trained.images.decode,
        image_size=trained.images.image_size,
        shapes=shapes,
        mesh=devices,
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
