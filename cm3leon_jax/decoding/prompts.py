"""Requests to the engine, and the prompts that they begin with.

A prompt is cut from the very sequence that training would have shown, at the place
where the answer begins:

    draw      </s> text <break>                                          | codes </s>
    + docs    </s> d1 <break> d2 <break> text <break>                    | codes </s>
    fill      </s> Describe it. <sentinel:0> <break> codes </s> <sentinel:0> | text <end>
    regions   </s> text <break> c <sentinel:0> c <sentinel:1> c </s> <sentinel:0>
                                         | c c <end> <sentinel:1> c c <end>

Where pictures have marks (`Vocab.use_image_marks`), theirs stand for `<break>`:

    draw      <s> text <begin>                                           | codes

and a plan (`grammar`) says what follows it. Text tasks are infilling, since templates
put the text before the picture.

Nothing here encodes text or pictures: documents come in with their ids.

Source: CM3Leon, arXiv:2309.02591, sections 2.2, 3 and Table 5.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from cm3leon_jax.decoding import grammar
from cm3leon_jax.decoding.sampling import PLAIN, Sampling
from cm3leon_jax.documents import cm3, example
from cm3leon_jax.documents import document as documents
from cm3leon_jax.documents.document import Document, Modality, Segment
from cm3leon_jax.vocab import Vocab

HIDDEN_COLOUR = 127  # hidden pixels, all channels: mid grey, which names no content


@dataclasses.dataclass(frozen=True)
class Request:
    """What the engine is asked to continue.

    Attributes:
      streams: Prompts as int32[n], decoded side by side: the whole prompt; the
        unconditional one, if guided or contrasted; the picture without its
        instruction, if the two have a scale each. All are given the same new ids.
      plan: What follows the prompt.
      seed: The only source of randomness.
      sampling: How ids are drawn.

    Raises:
      ValueError: If the number of streams is not what the sampling uses.
    """

    streams: tuple[np.ndarray, ...]
    plan: grammar.Plan
    seed: int = 0
    sampling: Sampling = PLAIN

    def __post_init__(self):
        sampling = self.sampling
        steered = sampling.is_guided or sampling.contrast_k > 0
        expected = 1 + steered + (sampling.image_guidance != 1)
        if len(self.streams) != expected and not (
            sampling.is_guided and len(self.streams) == 3
        ):
            raise ValueError(
                f"got {len(self.streams)} streams, {sampling} uses {expected}; add the"
                " unconditional prompt, or switch guidance and contrast off"
            )


def continued(
    document: Document,
    vocab: Vocab,
    retrieved: Sequence[Document] = (),
    modality: Modality = Modality.IMAGE,
) -> np.ndarray:
    """Returns the prompt after which the document's next segment begins.

        document  [a red circle]    prompt  [</s> a red circle <break>]

    Args:
      document: The segments so far.
      vocab: The joint vocabulary.
      retrieved: Documents that stand in front.
      modality: Of the next segment.

    Returns:
      int32[n].
    """
    ids = documents.join([*retrieved, document], vocab)[:-1]  # without the closing </s>
    marks = documents.opening(document.segments[-1].modality, modality, vocab)
    return np.concatenate([ids, np.array(marks, np.int32)])


def masked(
    document: Document,
    spans: Sequence[tuple[int, int]],
    vocab: Vocab,
    retrieved: Sequence[Document] = (),
) -> np.ndarray:
    """Returns the prompt after which the first masked span is written.

        document  [a b c d <break> I I I I], spans [(1, 3)]
        prompt    [</s> a <s:0> d <break> I I I I </s> <s:0>]

    Args:
      document: The whole document; what stands in the spans is left out.
      spans: [start, end) within the document's ids, ascending, not overlapping; an
        empty span is a place where something is to be put in.
      vocab: The joint vocabulary.
      retrieved: Documents that stand in front.

    Returns:
      int32[n], ending in `<sentinel:0>`.

    Raises:
      ValueError: If there is no span, or spans overlap.
    """
    if not spans:
        raise ValueError("nothing is masked; name at least one span to fill in")
    ends = [0, *(end for _, end in spans)]
    for before, (start, end) in zip(ends, spans, strict=False):
        if not before <= start <= end:
            raise ValueError(f"spans must ascend without overlap, got {list(spans)}")
    joined = documents.join([*retrieved, document], vocab)
    offset = len(joined) - 1 - len(documents.to_ids(document, vocab))
    spans_S2 = np.array(spans, np.int32) + offset
    moved = cm3.rewrite(joined, spans_S2, vocab)
    hidden = int((spans_S2[:, 1] - spans_S2[:, 0]).sum())
    return moved[: len(joined) - hidden + len(spans) + 1]


def unconditional(vocab: Vocab, retrieved: Sequence[Document] = ()) -> np.ndarray:
    """Returns `</s> <sentinel:0> <break>`: a picture of which no text is known.

    With marks of pictures `<s> <begin>`, which Chameleon knows without CM3's masks.

    Args:
      vocab: The joint vocabulary.
      retrieved: Documents that are kept in front; none drops them.
    """
    if not retrieved:
        front = np.array([vocab.begin_id], np.int32)
    elif vocab.use_image_marks:
        front = documents.join(retrieved, vocab)[:-1]
    else:
        front = continued(retrieved[-1], vocab, retrieved[:-1])
    return np.array([*front, *_unknown(vocab)], np.int32)


def without_text(
    document: Document, vocab: Vocab, retrieved: Sequence[Document] = ()
) -> np.ndarray:
    """Returns `continued` with the last text segment masked: the picture alone.

        document  [Edit it. <break> I I I I <break> make it red]
        prompt    [</s> Edit it. <break> I I I I <break> <s:0> <break>]

    With marks of pictures the text is left out: `... <begin> I I I I <end> <begin>`.

    Args:
      document: The segments so far.
      vocab: The joint vocabulary.
      retrieved: Documents that are kept in front; none drops them.

    Raises:
      ValueError: If the document ends in a picture.
    """
    if document.segments[-1].modality != Modality.TEXT:
        raise ValueError("the document ends in a picture; the text to drop comes last")
    ids = documents.join([*retrieved, document], vocab)[:-1]
    start = len(ids) - len(document.segments[-1].ids)
    return np.array([*ids[:start], *_unknown(vocab)], np.int32)


def _unknown(vocab: Vocab) -> tuple[int, ...]:
    """What stands before a picture in the place of its text."""
    if vocab.use_image_marks:
        return (vocab.begin_image_id,)
    return (vocab.sentinel_id(0), vocab.break_id)


def turns(
    document: Document,
    modalities: Sequence[Modality],
    max_text: int,
    num_pieces: int,
    vocab: Vocab,
    retrieved: Sequence[Document] = (),
) -> tuple[np.ndarray, grammar.Plan]:
    """Returns prompt and plan of a document that goes on for several segments.

        document  [a dog]    modalities  [image, text]
        prompt    [</s> a dog <break>]
        plan      [image x P] [<break>] [text, until </s>]

    A text that follows a text goes on with it, without `<break>`.

    Args:
      document: The segments so far.
      modalities: What comes next, in order.
      max_text: The most ids of each text.
      num_pieces: Size of the text tokenizer.
      vocab: The joint vocabulary.
      retrieved: Documents that stand in front.

    Raises:
      ValueError: If nothing is to come, or one text follows another in `modalities`.
    """
    if not modalities:
        raise ValueError("no turns are asked for; name at least one, picture or text")
    text = Modality.TEXT
    if any(a == b == text for a, b in itertools.pairwise(modalities)):
        raise ValueError("two turns of text in a row are one; ask for a longer text")
    ids = continued(document, vocab, retrieved, modalities[0])
    if modalities[0] == document.segments[-1].modality == text:
        ids = ids[:-1]
    plan: list[grammar.Piece] = []
    for modality, after in itertools.zip_longest(modalities, modalities[1:]):
        marks = () if after is None else documents.opening(modality, after, vocab)
        if modality == text:
            stop = marks[0] if marks else vocab.EOS
            plan.append(grammar.text(max_text, num_pieces, stop))
            continue
        plan.append(grammar.picture(vocab))
        if after is not None:
            marks = documents.closing(modality, vocab) + marks
            plan += [grammar.mark(one) for one in marks]
    return ids, tuple(plan)


def with_hole(
    parts: Sequence[example.Part | example.Hole],
    encode_text: Callable[[str], list[int]],
    codes: Sequence[np.ndarray],
    vocab: Vocab,
) -> Document:
    """Returns the document of a test-time prompt; its target is where the hole is.

    Args:
      parts: As `Example.parts`, with at most one `Hole` in the target's place.
      encode_text: From a string to text ids.
      codes: One int array[P] a picture.
      vocab: The joint vocabulary.
    """
    filled = tuple(
        example.Target("") if isinstance(part, example.Hole) else part for part in parts
    )
    return example.tokenize(
        example.Example("prompt", filled), encode_text, codes, vocab
    )


def at_hole(
    document: Document, vocab: Vocab, retrieved: Sequence[Document] = ()
) -> np.ndarray:
    """Returns the prompt, as `masked`, after which the text of the hole is written.

    Raises:
      ValueError: If the document has no hole.
    """
    if document.target is None:
        raise ValueError("there is no hole to write text into; add one to the parts")
    return masked(document, [document.target], vocab, retrieved)


def text_plan(count: int, num_pieces: int, vocab: Vocab) -> grammar.Plan:
    """Text until the end of the infill, at most `count` ids."""
    return (grammar.text(count, num_pieces, vocab.end_of_infill_id),)


def blank(picture: np.ndarray, hidden_YX: np.ndarray) -> np.ndarray:
    """Returns the picture with hidden cells grey, before anything encodes it.

    A tokenizer sees globally: codes of the visible part, made from the whole picture,
    would carry what is hidden.

    Args:
      picture: uint8[Y, X, 3].
      hidden_YX: bool[G, G] on the grid of codes; True is hidden.

    Raises:
      ValueError: If the grid does not divide the picture, or hides nothing.
    """
    height, width = picture.shape[:2]
    rows, columns = hidden_YX.shape
    if height % rows or width % columns:
        raise ValueError(
            f"a mask of {rows}x{columns} cells does not divide a picture of"
            f" {height}x{width} pixels; use the tokenizer's grid"
        )
    if not hidden_YX.any():
        raise ValueError("the mask hides nothing; mark at least one cell")
    pixels = hidden_YX.repeat(height // rows, 0).repeat(width // columns, 1)
    return np.where(pixels[..., None], np.uint8(HIDDEN_COLOUR), picture)


def cells(box: tuple[int, int, int, int], size: int, grid: int) -> np.ndarray:
    """Returns bool[G, G]: the cells of the code grid that a box of pixels touches.

    Raises:
      ValueError: If the box is empty or leaves the picture.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size):
        raise ValueError(
            f"box={tuple(box)} must be x0 < x1, y0 < y1 within {size}x{size} pixels"
        )
    pixels = np.zeros((size, size), bool)
    pixels[y0:y1, x0:x1] = True
    side = size // grid
    return np.asarray(pixels.reshape(grid, side, grid, side).any(axis=(1, 3)))


def runs(hidden_YX: np.ndarray) -> list[tuple[int, int]]:
    """Returns [start, end) of hidden codes in reading order, never across rows.

    mask  [0 1 1]    runs  [(1, 3), (4, 6)]
          [0 1 1]
    """
    spans = []
    columns = hidden_YX.shape[1]
    for row, cells in enumerate(hidden_YX.astype(np.int8)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cells, [0]])))
        for start, end in edges.reshape(-1, 2):
            spans.append((row * columns + int(start), row * columns + int(end)))
    return spans


def region(
    document: Document,
    hidden_YX: np.ndarray,
    vocab: Vocab,
    retrieved: Sequence[Document] = (),
) -> tuple[np.ndarray, grammar.Plan]:
    """Returns prompt and plan to fill in a region of the document's last picture.

    Args:
      document: Ends in the picture, whose hidden pixels were blanked before encoding.
      hidden_YX: bool[G, G], True is hidden.
      vocab: The joint vocabulary.
      retrieved: Documents that stand in front.

    Raises:
      ValueError: If the mask is not on the grid of codes, or the last segment is text.
    """
    grid = (vocab.grid_size, vocab.grid_size)
    if hidden_YX.shape != grid:
        raise ValueError(f"the mask is {hidden_YX.shape}, the codes are a grid {grid}")
    if document.segments[-1].modality != Modality.IMAGE:
        raise ValueError("the document must end in the picture to fill in")
    start = len(documents.to_ids(document, vocab)) - vocab.codes_per_image
    start -= len(documents.closing(Modality.IMAGE, vocab))
    spans = runs(hidden_YX)
    plan: list[grammar.Piece] = []
    for index, (first, last) in enumerate(spans):
        if index:
            plan.append(grammar.mark(vocab.end_of_infill_id))
            plan.append(grammar.mark(vocab.sentinel_id(index)))
        plan.append(grammar.codes(last - first, vocab))
    shifted = [(start + first, start + last) for first, last in spans]
    return masked(document, shifted, vocab, retrieved), tuple(plan)


def filled(
    codes: np.ndarray, hidden_YX: np.ndarray, parts: Sequence[np.ndarray], vocab: Vocab
) -> np.ndarray:
    """Returns a picture's codes with the pieces of a region's answer in their places.

    Args:
      codes: int[P], of the blanked picture.
      hidden_YX: bool[G, G].
      parts: `grammar.split` of the answer.
      vocab: The joint vocabulary.

    Returns:
      int32[P].
    """
    whole = np.array(codes, np.int32)
    written = [part for part in parts if len(part) and vocab.is_image(part[0])]
    for (start, end), part in zip(runs(hidden_YX), written, strict=True):
        whole[start:end] = vocab.codes(part)
    return whole


def text_document(text: str, encode_text: Callable[[str], list[int]]) -> Document:
    """Returns a document of one text."""
    ids = np.asarray(encode_text(text), np.int32)
    return Document((Segment(Modality.TEXT, ids),))
