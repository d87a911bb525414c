"""Pages of documents and of training rows: pictures, spans, segments, weights.

A sequence is shown twice: as it was before its spans moved, with what is hidden marked
in the text and dimmed in the pictures, and as the model reads it, run by run with the
weight of each run's loss.

Letters: N pictures, P codes of a picture, L row length.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cm3leon_jax.documents import cm3
from cm3leon_jax.documents.packing import Batch
from cm3leon_jax.reports import page
from cm3leon_jax.vocab import Vocab

STYLE = """<style>
.seq { display:flex; flex-wrap:wrap; gap:10px; align-items:flex-start; margin:6px 0; }
.text { font-size:13px; max-width:34ch; overflow-wrap:anywhere; }
.text mark { background:var(--accent); color:var(--paper); border-radius:3px;
  padding:0 3px; }
.strip { font-size:12px; line-height:1.9; overflow-wrap:anywhere; }
.strip span { border:1px solid var(--line); border-radius:5px; padding:1px 5px;
  margin-right:3px; }
.strip .control, .strip .codes { white-space:nowrap; }
.strip .control { color:var(--accent); font-weight:600; }
.strip i { color:var(--soft); font-style:normal; }
.strip .zero { opacity:.45; }
</style>"""
_DIM = 0.25  # of a hidden code's colours
_LONG = 120  # letters of a run of text that are shown


@dataclasses.dataclass(frozen=True)
class Reader:
    """Turns ids into words and pictures.

    Attributes:
      vocab: The joint vocabulary.
      decode_text: Ids of text pieces to a string.
      decode_pictures: int[N, P] codes to uint8[N, Y, X, 3].
    """

    vocab: Vocab
    decode_text: Callable[[list[int]], str]
    decode_pictures: Callable[[np.ndarray], np.ndarray]

    def pictures(
        self, sequences: Iterable[np.ndarray]
    ) -> dict[tuple[bytes, bytes], np.ndarray]:
        """Decodes all pictures of sequences at once; parts of them too.

        Args:
          sequences: int[n] each, spans put back.

        Returns:
          uint8[Y, X, 3] by (codes, which of them are there), codes as `fill` makes them.
        """
        wanted = {}
        for ids in sequences:
            for start, end in cm3.segments(ids, self.vocab):
                if self.vocab.is_image(ids[start]):
                    codes, is_there = self.fill(ids[start:end], is_tail=not start)
                    wanted[codes.tobytes(), is_there.tobytes()] = codes
        if not wanted:
            return {}
        pixels = self.decode_pictures(np.stack(list(wanted.values())))
        return dict(zip(wanted, pixels, strict=True))

    def fill(self, ids: np.ndarray, *, is_tail: bool) -> tuple[np.ndarray, np.ndarray]:
        """Fills a picture up that a row's end cut.

        Args:
          ids: int[n], image ids, n at most P.
          is_tail: Whether the first codes are missing (the row began inside it).

        Returns:
          int32[P] codes, 0 where there is none, and bool[P], where there is one.
        """
        size = self.vocab.codes_per_image
        codes, is_there = np.zeros(size, np.int32), np.zeros(size, bool)
        place = slice(size - len(ids), size) if is_tail else slice(0, len(ids))
        codes[place] = np.asarray(ids, np.int32) - self.vocab.image_start
        is_there[place] = True
        return codes, is_there


def document(
    ids: np.ndarray,
    reader: Reader,
    pictures: dict[tuple[bytes, bytes], np.ndarray],
    spans_S2: np.ndarray | None = None,
    size: int = 96,
) -> str:
    """A sequence before its spans moved: texts and pictures side by side.

    Args:
      ids: int[n], a document or a sequence, spans put back.
      reader: Of its ids.
      pictures: What `Reader.pictures` made of it.
      spans_S2: int[S, 2] of what is hidden, or None.
      size: Pixels of a picture's side on the page.
    """
    hidden = np.zeros(len(ids), bool)
    for start, end in spans_S2 if spans_S2 is not None else ():
        hidden[start:end] = True
    parts = []
    for start, end in cm3.segments(ids, reader.vocab):
        part, mask = ids[start:end], hidden[start:end]
        if not reader.vocab.is_image(part[0]):
            parts.append(f'<div class="text">{_text(part, mask, reader)}</div>')
            continue
        codes, is_there = reader.fill(part, is_tail=not start)
        shown = is_there.copy()
        shown[is_there] = ~mask
        pixels = _dimmed(pictures[codes.tobytes(), is_there.tobytes()], shown)
        words = "" if is_there.all() else f"{len(part)} of {len(is_there)} codes"
        if mask.any():
            words = f"{words} {mask.sum()} hidden".strip()
        parts.append(page.picture(pixels, words, size))
    return f'<div class="seq">{"".join(parts)}</div>'


def strip(ids: np.ndarray, weights: np.ndarray, reader: Reader) -> str:
    """A sequence as the model reads it: one box a run of equal kind and weight.

    Args:
      ids: int[n], spans moved.
      weights: float[n], of the loss where `ids[i]` is predicted; nan for the first,
        which nothing predicts.
      reader: Of its ids.
    """
    kinds = [_kind(int(one), reader.vocab) for one in ids]
    boxes, start = [], 0
    for place in range(1, len(ids) + 1):
        if place < len(ids) and _same(kinds, weights, place - 1, place):
            continue
        boxes.append(_box(ids[start:place], kinds[start], weights[place - 1], reader))
        start = place
    return f'<div class="strip">{"".join(boxes)}</div>'


def sequences(batch: Batch, row: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The packed sequences of a row: ids int32[n] and weights float32[n].

    The last id of a sequence is only a target. The first has weight nan.
    """
    found = []
    segments_L = batch.segment_ids_BL[row]
    for number in range(1, int(segments_L.max(initial=0)) + 1):
        inside = segments_L == number
        tokens, targets = batch.tokens_BL[row, inside], batch.targets_BL[row, inside]
        weights = batch.weights_BL[row, inside]
        found.append(
            (np.append(tokens, targets[-1]), np.concatenate([[np.nan], weights]))
        )
    return found


def facts(batch: Batch, vocab: Vocab) -> dict[str, float]:
    """Numbers of a batch, for its page and for `done.json`."""
    real = batch.segment_ids_BL > 0
    starts = real & (batch.positions_BL == 0)
    ends = (batch.targets_BL == vocab.end_of_infill_id) & real
    total = batch.weights_BL.sum()
    image = vocab.is_image(batch.targets_BL) & real
    return {
        "rows": float(len(real)),
        "row_length": float(real.shape[1]),
        "real_tokens": float(real.mean()),
        "sequences_per_row": float(starts.sum() / len(real)),
        "spans_per_row": float(ends.sum() / len(real)),
        "loss_on_image_codes": float(
            (batch.weights_BL * image).sum() / max(total, 1e-9)
        ),
        "mean_weight": float(batch.weights_BL[real].mean()) if real.any() else 0.0,
    }


def counted(numbers: dict[str, float]) -> str:
    """Facts as large numbers."""
    names = {name.replace("_", " "): value for name, value in numbers.items()}
    return page.figures({name: page.number(value) for name, value in names.items()})


def provenance(values: Sequence[tuple[str, str]]) -> str:
    """A soft line of what is known of a document; empty values are left out."""
    known = [f"{name} {value}" if name else value for name, value in values if value]
    return f'<div class="say soft">{html.escape(" · ".join(known))}</div>'


def _text(ids: np.ndarray, hidden: np.ndarray, reader: Reader) -> str:
    """Words with what is hidden marked; each stretch is decoded by itself."""
    edges = np.flatnonzero(np.diff(hidden.astype(int))) + 1
    parts = []
    for stretch, mask in zip(
        np.split(ids, edges), np.split(hidden, edges), strict=True
    ):
        words = html.escape(reader.decode_text(stretch.tolist()))
        parts.append(f"<mark>{words or '&nbsp;'}</mark>" if mask[0] else words)
    return "".join(parts)


def _dimmed(pixels: np.ndarray, shown_P: np.ndarray) -> np.ndarray:
    """A picture whose hidden or missing codes are dark."""
    side = math.isqrt(len(shown_P))
    cell = -(-pixels.shape[0] // side)
    mask = np.kron(shown_P.reshape(side, side), np.ones((cell, cell), bool))
    mask = mask[: pixels.shape[0], : pixels.shape[1], None]
    return np.where(mask, pixels, pixels * _DIM).astype(np.uint8)


def _kind(one: int, vocab: Vocab) -> str:
    if one == vocab.EOS:
        return "</s>"
    if vocab.use_image_marks and one == vocab.BOS:
        return "<s>"
    if vocab.use_image_marks and one in (vocab.begin_image_id, vocab.end_image_id):
        return "<begin image>" if one == vocab.begin_image_id else "<end image>"
    if one == vocab.break_id:
        return "<break>"
    if one == vocab.end_of_infill_id:
        return "<end>"
    if vocab.is_sentinel(one):
        return f"<sentinel:{one - vocab.sentinel_id(0)}>"
    return "image" if vocab.is_image(one) else "text"


def _same(kinds: list[str], weights: np.ndarray, left: int, right: int) -> bool:
    """Whether two neighbouring ids belong to one box."""
    if kinds[left] != kinds[right] or kinds[left] not in ("image", "text"):
        return False
    return weights[left] == weights[right] or bool(np.isnan(weights[left]))


def _box(ids: np.ndarray, kind: str, weight: float, reader: Reader) -> str:
    words, style = kind, "control"
    if kind == "image":
        words, style = f"{len(ids)} codes", "codes"
    elif kind == "text":
        words, style = reader.decode_text(ids.tolist())[:_LONG], ""
    note = "" if np.isnan(weight) or weight == 1 else f" <i>×{weight:g}</i>"
    zero = " zero" if weight == 0 else ""
    return f'<span class="{style}{zero}">{html.escape(words)}{note}</span>'
