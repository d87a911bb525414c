"""Ranking the candidates of a dialog's question by how likely a model finds each.

    {caption} Question: {q} Answer: {a}. ... Question: {q} Answer:<hole>. <break> {image}

A candidate's score is the mean log-probability of its ids and of the end of the infill,
written into the hole: the mean, or short answers would always win. The paper does not
say how it ranks.

Source: CM3Leon, arXiv:2309.02591, Table 2 (VisDial); `evals/ranking.py` for the number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cm3leon_jax.data.sources.visdial import Turn
from cm3leon_jax.decoding import prompts, scoring
from cm3leon_jax.decoding.writer import Writer
from cm3leon_jax.tasks import vqa


def prompt(turn: Turn, picture: np.ndarray) -> tuple:
    """Returns the test-time prompt of a turn, with a hole where the answer belongs."""
    before = [f"Question: {asked}? Answer: {said}." for asked, said in turn.history]
    first, *rest = vqa.prompt(f"{turn.question.rstrip('?')}?", picture)
    return (" ".join([f"{turn.caption}.", *before, first]), *rest)


def scores(
    writer: Writer, turns: Sequence[Turn], pictures: np.ndarray
) -> list[np.ndarray]:
    """Returns the score of every candidate of every turn.

    Args:
      writer: The model with its tokenizers.
      turns: What is asked.
      pictures: uint8[len(turns), Y, X, 3].

    Returns:
      float64[candidates] each.
    """
    codes = np.asarray(writer.encode_pictures(pictures), np.int32)
    end = np.array([writer.vocab.end_of_infill_id], np.int32)
    before, after = [], []
    for turn, picture, own in zip(turns, pictures, codes, strict=True):
        asked = prompts.with_hole(
            prompt(turn, picture), writer.encode_text, [own], writer.vocab
        )
        ids = prompts.at_hole(asked, writer.vocab)
        for option in turn.options:
            # A space opens an answer, as in training.
            written = np.asarray(writer.encode_text(f" {option}"), np.int32)
            before.append(ids)
            after.append(np.concatenate([written, end]))
    found = scoring.scores(writer.model, before, after, writer.shapes)
    means = np.array([row.mean() for row in found], np.float64)
    return np.split(means, np.cumsum([len(turn.options) for turn in turns])[:-1])
