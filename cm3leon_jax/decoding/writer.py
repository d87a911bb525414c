"""Orders in words and pictures in, words and pictures out.

The writer is the engine with its tokenizers around it. An order's parts are those of a
training example (`documents.example`): strings, pictures, and a `Hole` where text is
asked for. What comes out follows from them:

    a hole          text, written into the hole
    a mask          the last picture with its masked cells drawn anew
    turns           the next texts and pictures, in the order that is asked for
    none of them    the next picture

All pictures of all orders are encoded together, all requests decoded together, so give
it many at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from PIL import Image

from cm3leon_jax.decoding import beam, engine, grammar, prompts, scoring
from cm3leon_jax.decoding.sampling import PLAIN, Sampling
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document, Modality
from cm3leon_jax.documents.example import Hole, Part
from cm3leon_jax.models import transformer
from cm3leon_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
      parts: Strings, pictures uint8[Y, X, 3] of the tokenizer's size, at most one Hole.
      hidden_YX: bool[G, G] on the grid of codes: the cells of the last picture that
        are to be drawn anew, or None.
      turns: What comes after the parts, or empty.
      documents: Retrieved documents that stand in front, best first.
      keep_documents: Whether the other streams of a guided picture have them too.
      seed: The only source of randomness.
      sampling: How ids are drawn.
      beams: How a hole's text is searched for; None draws it.
      max_text: The most text ids that are written into a hole, or a turn.
    """

    parts: tuple[Part | Hole, ...]
    hidden_YX: np.ndarray | None = None
    turns: tuple[Modality, ...] = ()
    documents: tuple[Document, ...] = ()
    keep_documents: bool = False
    seed: int = 0
    sampling: Sampling = PLAIN
    beams: beam.Beams | None = None
    max_text: int = 47

    @property
    def wants_text(self) -> bool:
        """True if a hole is to be filled with text."""
        return any(isinstance(part, Hole) for part in self.parts)

    @property
    def pictures(self) -> list[np.ndarray]:
        """The pictures as they may be seen: hidden pixels blanked."""
        found = [part for part in self.parts if isinstance(part, np.ndarray)]
        if self.hidden_YX is not None:
            if not found:
                raise ValueError("a mask needs a picture; add one to the parts")
            found[-1] = prompts.blank(found[-1], self.hidden_YX)
        return found


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
      text: The first text, or None.
      picture: The first picture, uint8[Y, X, 3], or None.
      codes: Its codes, int32[P].
      turns: Texts and pictures in order, if several were asked for.
    """

    text: str | None = None
    picture: np.ndarray | None = None
    codes: np.ndarray | None = None
    turns: tuple[str | np.ndarray, ...] = ()


@dataclasses.dataclass(frozen=True)
class Writer:
    """A model with everything that it takes to use it.

    Attributes:
      model: Unstacked.
      vocab: The joint vocabulary.
      encode_text: From a string to text ids.
      decode_text: From text ids to a string.
      num_text_pieces: Size of the text tokenizer.
      encode_pictures: From uint8[N, Y, X, 3] to image codes int32[N, P].
      decode_pictures: The way back.
      image_size: Pixels a side that the image tokenizer takes.
      shapes: Padded shapes of the engine.
      mesh: Devices that share the orders of a batch, and the model; or None.
    """

    model: transformer.Transformer
    vocab: Vocab
    encode_text: Callable[[str], list[int]]
    decode_text: Callable[[Sequence[int]], str]
    num_text_pieces: int
    encode_pictures: Callable[[np.ndarray], np.ndarray]
    decode_pictures: Callable[[np.ndarray], np.ndarray]
    image_size: int
    shapes: engine.Shapes = engine.DEFAULT_SHAPES
    mesh: jax.sharding.Mesh | None = None

    def run(
        self,
        orders: Sequence[Order],
        report: Callable[[int], None] = lambda orders: None,
    ) -> list[Result]:
        """Fulfils orders.

        Args:
          orders: Any mixture.
          report: Called with the number of orders finished, batch by batch.

        Raises:
          ValueError: If an order cannot be fulfilled; `check` tells for one order.
        """
        codes = self._codes(orders)
        requests = [self._request(*pair) for pair in zip(orders, codes, strict=True)]
        answers = self._answers(orders, requests, report)
        written = [
            self._written(*each)
            for each in zip(orders, codes, requests, answers, strict=True)
        ]
        return self._results(orders, written)

    def stream(self, orders: Sequence[Order]) -> Iterator[list[Result]]:
        """Yields what is written so far, a row of codes at a time.

        Cells of a picture that are not drawn yet are grey. The last results are those
        of `run`.

        Args:
          orders: Alike, as samples of one prompt are; neither beams nor turns.

        Raises:
          ValueError: If they cannot be fulfilled, or do not fit one batch.
        """
        if any(order.beams or order.turns for order in orders):
            raise ValueError("beams and turns are not written bit by bit; use run")
        codes = self._codes(orders)
        requests = [self._request(*pair) for pair in zip(orders, codes, strict=True)]
        answers: list[np.ndarray] = []
        every = self.vocab.grid_size
        for answers in engine.stream(
            self.model, requests, self.vocab, every, self.shapes, self.mesh
        ):
            yield [
                self._so_far(*each) for each in zip(orders, codes, answers, strict=True)
            ]
        written = [
            self._written(*each)
            for each in zip(orders, codes, requests, answers, strict=True)
        ]
        yield self._results(orders, written)

    def perplexity(self, parts: tuple[Part, ...]) -> dict[str, float]:
        """Returns exp of the mean loss of a document's ids, of each modality it has.

        Args:
          parts: Strings, and pictures uint8[Y, X, 3] of the tokenizer's size.

        Returns:
          `text` and `image`, as training has them of the same document alone.
        """
        codes = self._codes([Order(parts)])[0]
        document = prompts.with_hole(parts, self.encode_text, codes, self.vocab)
        ids = documents.join([document], self.vocab)
        scores = scoring.scores(self.model, [ids[:1]], [ids[1:]], self.shapes)[0]
        found = {
            "text": scores[self.vocab.is_text(ids[1:])],
            "image": scores[self.vocab.is_image(ids[1:])],
        }
        return {
            name: float(np.exp(-each.mean()))
            for name, each in found.items()
            if len(each)
        }

    def _answers(
        self,
        orders: Sequence[Order],
        requests: Sequence[prompts.Request],
        report: Callable[[int], None],
    ) -> list[np.ndarray]:
        """The new ids of every order: searched for those with beams, drawn for others."""
        answers: list[np.ndarray] = [np.zeros(0, np.int32)] * len(orders)
        for beams in dict.fromkeys(order.beams for order in orders):
            members = [i for i, order in enumerate(orders) if order.beams == beams]
            chosen = [requests[index] for index in members]
            if beams is None:
                found = engine.generate(
                    self.model, chosen, self.vocab, self.shapes, report, self.mesh
                )
            else:
                found = beam.search(self.model, chosen, self.vocab, beams, self.shapes)
                report(len(chosen))
            for index, ids in zip(members, found, strict=True):
                answers[index] = ids
        return answers

    def _written(
        self,
        order: Order,
        seen: list[np.ndarray],
        request: prompts.Request,
        answer: np.ndarray,
    ) -> list[str | np.ndarray]:
        """Texts, and the codes int32[P] of pictures, in order."""
        vocab = self.vocab
        parts = grammar.split(request.plan, answer)
        if order.hidden_YX is not None:
            return [prompts.filled(seen[-1], order.hidden_YX, parts, vocab)]
        written: list[str | np.ndarray] = []
        for piece, part in zip(request.plan, parts, strict=True):
            if vocab.is_image(piece.start):
                written.append(vocab.codes(part).astype(np.int32))
            elif not piece.is_forced:
                written.append(self.decode_text(part.tolist()))
        return written

    def _results(
        self, orders: Sequence[Order], written: Sequence[list[str | np.ndarray]]
    ) -> list[Result]:
        """Decodes all pictures in one call."""
        codes = [x for each in written for x in each if isinstance(x, np.ndarray)]
        pictures = iter(self.decode_pictures(np.stack(codes)) if codes else ())
        results = []
        for order, each in zip(orders, written, strict=True):
            turns = [x if isinstance(x, str) else next(pictures) for x in each]
            arrays = [x for x in each if isinstance(x, np.ndarray)]
            results.append(
                Result(
                    text=next((x for x in turns if isinstance(x, str)), None),
                    picture=next((x for x in turns if not isinstance(x, str)), None),
                    codes=arrays[0] if arrays else None,
                    turns=tuple(turns) if order.turns else (),
                )
            )
        return results

    def _so_far(
        self, order: Order, seen: list[np.ndarray], answer: np.ndarray
    ) -> Result:
        """An unfinished result."""
        vocab, grid = self.vocab, self.vocab.grid_size
        if order.wants_text:
            return Result(text=self.decode_text(answer[vocab.is_text(answer)].tolist()))
        hidden_YX = order.hidden_YX
        codes = vocab.codes(answer[vocab.is_image(answer)])
        if hidden_YX is None:
            hidden_YX = np.ones((grid, grid), bool)
            whole = np.resize(codes, vocab.codes_per_image)
        else:
            whole = np.array(seen[-1])
        cells = np.flatnonzero(hidden_YX)
        whole[cells[: len(codes)]] = codes
        missing_YX = np.zeros(grid * grid, bool)
        missing_YX[cells[len(codes) :]] = True
        picture = self.decode_pictures(whole[None].astype(np.int32))[0]
        if missing_YX.any():
            picture = prompts.blank(picture, missing_YX.reshape(grid, grid))
        return Result(picture=picture)

    def check(self, order: Order) -> None:
        """Refuses what cannot be fulfilled (ValueError), before anything is computed."""
        size = (self.image_size, self.image_size, 3)
        for picture in order.pictures:
            if picture.shape != size or picture.dtype != np.uint8:
                raise ValueError(
                    f"a picture is {picture.dtype}{list(picture.shape)}, the tokenizer"
                    f" takes uint8{list(size)}; resize it"
                )
        if order.beams and not order.wants_text:
            raise ValueError("beams search for a text; set num_beams=1 for pictures")
        blank = np.zeros(self.vocab.codes_per_image, np.int32)
        request = self._request(order, [blank] * len(order.pictures))
        engine.check(request, self.vocab, self.shapes, self.model.config.max_length)

    def _codes(self, orders: Sequence[Order]) -> list[list[np.ndarray]]:
        """The codes of every order's pictures, encoded in one call."""
        pictures = [order.pictures for order in orders]
        flat = [picture for each in pictures for picture in each]
        if not flat:
            return [[] for _ in orders]
        codes = iter(np.asarray(self.encode_pictures(np.stack(flat)), np.int32))
        return [[next(codes) for _ in each] for each in pictures]

    def _request(self, order: Order, codes: list[np.ndarray]) -> prompts.Request:
        vocab, sampling = self.vocab, order.sampling
        document = prompts.with_hole(order.parts, self.encode_text, codes, vocab)
        steered = sampling.is_guided or sampling.contrast_k > 0
        is_whole = not (order.wants_text or order.hidden_YX is not None or order.turns)
        if not is_whole and steered:
            raise ValueError(
                "guidance and contrast are for whole pictures; set guidance=1 and"
                " contrast_k=0 to write text, fill in a region, or go on for turns"
            )
        if not is_whole:
            ids, plan = self._unguided(order, document)
            return prompts.Request((ids,), plan, order.seed, sampling)
        kept = order.documents if order.keep_documents else ()
        streams = [prompts.continued(document, vocab, order.documents)]
        if steered:
            streams.append(prompts.unconditional(vocab, kept))
        if sampling.is_guided and sampling.image_guidance != 1:
            streams.append(prompts.without_text(document, vocab, kept))
        plan = (grammar.picture(vocab),)
        return prompts.Request(tuple(streams), plan, order.seed, sampling)

    def _unguided(
        self, order: Order, document: Document
    ) -> tuple[np.ndarray, grammar.Plan]:
        """Prompt and plan of what only one stream writes."""
        vocab, texts = self.vocab, self.num_text_pieces
        if order.turns:
            return prompts.turns(
                document, order.turns, order.max_text, texts, vocab, order.documents
            )
        if order.hidden_YX is not None:
            return prompts.region(document, order.hidden_YX, vocab, order.documents)
        ids = prompts.at_hole(document, vocab, order.documents)
        return ids, prompts.text_plan(order.max_text, texts, vocab)


def drawn(picture: np.ndarray | None) -> np.ndarray:
    """Returns a result's picture, where one was asked for.

    Raises:
      ValueError: If there is none: the order was for text.
    """
    if picture is None:
        raise ValueError("no picture was drawn; a request with a hole writes text")
    return picture


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """Returns a picture at the tokenizer's size: shorter side to it, middle cut out.

    Args:
      picture: uint8[Y, X, 3].
      size: Pixels a side.

    Raises:
      ValueError: If it is no picture.
    """
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"a picture is uint8[Y, X, 3], got {picture.dtype}{list(picture.shape)};"
            " convert it to RGB"
        )
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    scale = size / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    resized = Image.fromarray(picture).resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))
