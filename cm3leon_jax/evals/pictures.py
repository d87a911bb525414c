"""How well a model knows a person's own pictures, where nothing else judges.

    image_perplexity_true   of held-out pictures under their own caption and, as
                            `_shuffled`, under another's; `_p_value` of the difference,
                            picture by picture
    captions                word F1 against the true caption
    drawing_finds_caption   share of drawings whose nearest caption among a hundred is
                            their own, by the bi-encoder
    nearest_training        how near the nearest training picture is to a drawing, and
                            as `_true`, to a held-out picture: copying shows as a gap

Letters: N pictures, E width of the vectors.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from cm3leon_jax.decoding import prompts, scoring
from cm3leon_jax.decoding import writer as writers
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order, Writer
from cm3leon_jax.evals import chance
from cm3leon_jax.evals.bench import Sample
from cm3leon_jax.tasks import caption

NUM_CHOICES = 100  # captions among which a drawing finds its own


@dataclasses.dataclass(frozen=True)
class PictureEvalConfig:
    """What is measured.

    Attributes:
      num_cases: Held-out pictures; all there are, if fewer.
      drawing: How pictures are drawn. Likewise `writing` for texts.
      max_caption: Most text ids of a caption.
      seed: Of the first case; the others follow.
    """

    num_cases: int
    drawing: Sampling
    writing: Sampling
    max_caption: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Pictures with their captions: texts, and uint8[N, Y, X, 3]."""

    texts: list[str]
    pictures: np.ndarray

    def first(self, count: int) -> Captioned:
        """The first `count` of them."""
        return Captioned(self.texts[:count], self.pictures[:count])


def evaluate(
    writer: Writer,
    held_out: Captioned,
    training: Captioned,
    embed_text: Callable[[Sequence[str]], np.ndarray],
    embed_pictures: Callable[[np.ndarray], np.ndarray],
    config: PictureEvalConfig,
) -> tuple[dict[str, float], list[Sample]]:
    """Returns every number of this module, and samples to look at.

    Args:
      writer: The model with its tokenizers.
      held_out: Pictures that no stage was trained on.
      training: What it was trained on.
      embed_text: To unit vectors float32[n, E]. Likewise `embed_pictures`.
      embed_pictures: From uint8[n, Y, X, 3].
      config: What is measured.

    Raises:
      ValueError: If there are fewer held-out pictures than captions to choose from.
    """
    if len(held_out.texts) < NUM_CHOICES:
        raise ValueError(
            f"{len(held_out.texts)} held-out pictures, {NUM_CHOICES} are needed to"
            " measure; add pictures, or hold out a larger share"
        )
    held_out = held_out.first(config.num_cases)
    metrics: dict[str, float] = {"num_pictures": len(held_out.texts)}
    metrics |= caption_effect(writer, held_out)
    found, samples = captions(writer, held_out, config)
    metrics |= found
    orders = [
        Order((text,), seed=config.seed + index, sampling=config.drawing)
        for index, text in enumerate(held_out.texts)
    ]
    drawn = np.stack([writers.drawn(each.picture) for each in writer.run(orders)])
    vectors_NE = embed_pictures(drawn)
    is_found_N = finds_caption(vectors_NE, embed_text(held_out.texts))
    metrics["drawing_finds_caption"] = float(is_found_N.mean())
    metrics["drawing_finds_caption_guess"] = 1 / NUM_CHOICES
    training_NE = embed_pictures(training.pictures)
    nearest_N, similarity_N = nearest(vectors_NE, training_NE)
    _, true_N = nearest(embed_pictures(held_out.pictures), training_NE)
    metrics["nearest_training"] = float(similarity_N.mean())
    metrics["nearest_training_true"] = float(true_N.mean())
    samples += [
        Sample(
            "drawings",
            text,
            float(is_found_N[index]),
            text,
            f"nearest training picture: {training.texts[nearest_N[index]]}",
            training.pictures[nearest_N[index]],
            drawn[index],
        )
        for index, text in enumerate(held_out.texts)
    ]
    return metrics, samples


def caption_effect(writer: Writer, held_out: Captioned) -> dict[str, float]:
    """Image perplexity under the true caption, under another's, and the p-value.

    The other caption is the next picture's. The test is paired, one-sided.
    """
    vocab = writer.vocab
    ids = [vocab.image_ids(row) for row in writer.encode_pictures(held_out.pictures)]
    shuffled = [*held_out.texts[1:], *held_out.texts[:1]]
    loss = {}
    for name, texts in (("true", held_out.texts), ("shuffled", shuffled)):
        before = [
            prompts.continued(prompts.text_document(text, writer.encode_text), vocab)
            for text in texts
        ]
        scored = scoring.scores(writer.model, before, ids, writer.shapes)
        loss[name] = -np.array([row.mean() for row in scored], np.float64)
    return {
        "image_perplexity_true": math.exp(loss["true"].mean()),
        "image_perplexity_shuffled": math.exp(loss["shuffled"].mean()),
        "image_perplexity_p_value": chance.paired_p_value(
            loss["shuffled"] - loss["true"]
        ),
    }


def captions(
    writer: Writer, held_out: Captioned, config: PictureEvalConfig
) -> tuple[dict[str, float], list[Sample]]:
    """Captions that the model writes, against the true ones."""
    orders = [
        Order(
            caption.prompt(picture),
            seed=config.seed + index,
            sampling=config.writing,
            max_text=config.max_caption,
        )
        for index, picture in enumerate(held_out.pictures)
    ]
    written = [caption.parse(result.text or "") for result in writer.run(orders)]
    metrics = {
        "captions": chance.mean(word_f1, held_out.texts, written),
        "captions_guess": chance.guess(
            word_f1, held_out.texts, written, held_out.texts
        ),
    }
    samples = [
        Sample(
            "captions",
            "Describe the given picture.",
            word_f1(text, own),
            text,
            own,
            given,
        )
        for text, own, given in zip(
            held_out.texts, written, held_out.pictures, strict=True
        )
    ]
    return metrics, samples


def word_f1(true: str, written: str) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it is.

    true "a red fox", written "a red red dog": 2 shared, precision 2/4, recall 2/3,
    F1 4/7.
    """
    ours, theirs = (
        collections.Counter(text.lower().split()) for text in (written, true)
    )
    shared = sum((ours & theirs).values())
    return 2 * shared / max(1, sum(ours.values()) + sum(theirs.values()))


def finds_caption(picture_NE: np.ndarray, text_NE: np.ndarray) -> np.ndarray:
    """Returns bool[N]: is a drawing's own caption the nearest of a hundred?

    The others are the next 99 in order, around the end. A tie is no find: a bi-encoder
    that tells nothing apart finds nothing.

    Args:
      picture_NE: float[N, E], unit vectors, N of at least 100.
      text_NE: float[N, E], unit vectors, the captions in the same order.
    """
    count = len(picture_NE)
    similarity_NN = np.asarray(picture_NE) @ np.asarray(text_NE).T
    others = (np.arange(count)[:, None] + np.arange(1, NUM_CHOICES)[None]) % count
    best_N = np.take_along_axis(similarity_NN, others, axis=1).max(axis=1)
    return np.diagonal(similarity_NN) > best_N


def nearest(
    picture_NE: np.ndarray, training_NE: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place of the nearest training picture, int[N], and the cosine."""
    similarity = np.asarray(picture_NE) @ np.asarray(training_NE).T
    return similarity.argmax(axis=1), similarity.max(axis=1)
