"""Orders in words and pictures in, words and pictures out.

The writer is the engine with its tokenizers around it. An order's parts are those of a
training example (`documents.example`): strings, pictures, and a `Hole` where text is
asked for. What comes out follows from them:

    a hole          text, written into the hole
    a mask          the last picture with its masked cells drawn anew
    neither         the next picture

All pictures of all orders are encoded together, all requests decoded together, so give
it many at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from cm3leon_jax.decoding import engine, grammar, prompts
from cm3leon_jax.decoding.sampling import PLAIN, Sampling
from cm3leon_jax.documents.document import Document
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
      documents: Retrieved documents that stand in front, best first.
      keep_documents: Whether the unconditional stream has them too.
      seed: The only source of randomness.
      sampling: How ids are drawn.
      max_text: The most text ids that are written into a hole.
    """

    parts: tuple[Part | Hole, ...]
    hidden_YX: np.ndarray | None = None
    documents: tuple[Document, ...] = ()
    keep_documents: bool = False
    seed: int = 0
    sampling: Sampling = PLAIN
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
    """What was written: a text, or a picture and its codes int32[P]."""

    text: str | None = None
    picture: np.ndarray | None = None
    codes: np.ndarray | None = None


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
        answers = engine.generate(self.model, requests, self.vocab, self.shapes, report)
        results, drawn = [], []
        for order, seen, request, answer in zip(
            orders, codes, requests, answers, strict=True
        ):
            parts = grammar.split(request.plan, answer)
            if order.wants_text:
                results.append(Result(text=self.decode_text(parts[0].tolist())))
                continue
            new = self.vocab.codes(parts[0])
            if order.hidden_YX is not None:
                new = prompts.filled(seen[-1], order.hidden_YX, parts, self.vocab)
            drawn.append(len(results))
            results.append(Result(codes=new.astype(np.int32)))
        if drawn:
            pictures = self.decode_pictures(np.stack([results[i].codes for i in drawn]))
            for index, picture in zip(drawn, pictures, strict=True):
                results[index] = dataclasses.replace(results[index], picture=picture)
        return results

    def check(self, order: Order) -> None:
        """Refuses what cannot be fulfilled (ValueError), before anything is computed."""
        size = (self.image_size, self.image_size, 3)
        for picture in order.pictures:
            if picture.shape != size or picture.dtype != np.uint8:
                raise ValueError(
                    f"a picture is {picture.dtype}{list(picture.shape)}, the tokenizer"
                    f" takes uint8{list(size)}; resize it"
                )
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
        if order.wants_text or order.hidden_YX is not None:
            if steered:
                raise ValueError(
                    "guidance and contrast are for whole pictures; set guidance=1 and"
                    " contrast_k=0 to write text or fill in a region"
                )
            if order.hidden_YX is not None:
                ids, plan = prompts.region(
                    document, order.hidden_YX, vocab, order.documents
                )
            else:
                ids = prompts.masked(
                    document, [document.target], vocab, order.documents
                )
                plan = prompts.text_plan(order.max_text, self.num_text_pieces, vocab)
            return prompts.Request((ids,), plan, order.seed, sampling)
        streams = [prompts.continued(document, vocab, order.documents)]
        if steered:
            kept = order.documents if order.keep_documents else ()
            streams.append(prompts.unconditional(vocab, kept))
        if sampling.is_guided and sampling.image_guidance != 1:
            streams.append(prompts.without_text(document, vocab))
        plan = (grammar.picture(vocab),)
        return prompts.Request(tuple(streams), plan, order.seed, sampling)


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
