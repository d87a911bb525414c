"""Contrastive training of the bi-encoder on one's own pairs of text and picture.

The loss is CLIP's: each picture must find its text among the batch's, and each text its
picture. Two additions, both by config, make small models usable for retrieval:

- pieces of texts and patches of pictures are dropped, as queries of the retrieval are;
- a second view of every text, in which frequent pieces are seldom kept, must find the
  first among the batch's texts. The rare pieces are the names of things; this teaches
  the text tower to tell apart names that it never saw, which pictures alone cannot.

Letters: B rows, Y X pixel rows and columns, C channels, P kept patches, L text
positions, N documents, E width of the vectors.

Source: CLIP, arXiv:2103.00020, section 2; frequent-word subsampling: Distributed
Representations of Words and Phrases, arXiv:1310.4546, section 2.3; two views of a text
as a positive pair: SimCSE, arXiv:2104.08821, section 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cm3leon_jax.models import clip

_MAX_LOGIT_SCALE = 100.0  # CLIP, section 2.5


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """How the bi-encoder is trained.

    Attributes:
      num_steps: Updates.
      batch_size: Pairs a step.
      peak_lr: Learning rate after the warm-up; it falls along a cosine to a fiftieth.
      warmup_steps: Steps of the linear warm-up.
      weight_decay: AdamW's, on matrices.
      clip_norm: Largest gradient norm.
      piece_drop_prob: Share of text pieces dropped.
      patch_drop_prob: Share of picture patches dropped, which also saves their time.
      text_weight: Weight of the text-to-text loss; 0 for CLIP's loss alone.
      text_logit_scale: Its fixed inverse temperature.
      rare_share: Share of the second views that a piece is in at most; rarer pieces
        are always kept.
      seed: Of parameters, batches and drops.
    """

    num_steps: int
    batch_size: int
    peak_lr: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    piece_drop_prob: float
    patch_drop_prob: float
    text_weight: float
    text_logit_scale: float
    rare_share: float
    seed: int


class Batch(NamedTuple):
    """One step's pairs, as NumPy's arrays on the host, as JAX's in the step.

    Attributes:
      pictures_BYXC: uint8[B, Y, X, 3].
      kept_BP: int32[B, P], the patches that are seen.
      texts_BL: int32[B, L], framed by begin and end, filled with end.
      rare_texts_BL: int32[B, L'], the second view, which is shorter.
    """

    pictures_BYXC: Any
    kept_BP: Any
    texts_BL: Any
    rare_texts_BL: Any


class State(NamedTuple):
    """What training changes: parameters, and the optimizer's memory of them."""

    params: nnx.State
    optimizer: Any


Step = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]


def init(
    shape: clip.ClipConfig, config: ContrastiveConfig
) -> tuple[nnx.GraphDef, State, Step]:
    """Makes a bi-encoder to train.

    Returns:
      What `nnx.merge` needs with the parameters, the state before the first step, and
      the compiled step, which consumes the state that it is given.

    Raises:
      ValueError: If the batch has no negative.
    """
    if config.batch_size < 2:
        raise ValueError(
            f"batch_size={config.batch_size} must be at least 2: the other pairs of a"
            " batch are what a pair is told apart from"
        )
    make = lambda key: clip.Clip(shape, rngs=nnx.Rngs(key))
    # This generator's code compiles twice as fast as the default one's.
    key = jax.random.key(config.seed, impl="rbg")
    definition = nnx.graphdef(nnx.eval_shape(make, key))
    params = jax.jit(lambda key: nnx.state(make(key)))(key)
    optimizer = make_optimizer(config)
    step = _make_step(definition, optimizer, config)
    return definition, State(params, optimizer.init(params)), step


def make_optimizer(config: ContrastiveConfig) -> optax.GradientTransformation:
    """AdamW with CLIP's second moment, clipped, along a cosine."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.peak_lr,
        min(config.warmup_steps, config.num_steps - 1),
        config.num_steps,
        config.peak_lr / 50,
    )
    is_matrix = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule, b2=0.98, weight_decay=config.weight_decay, mask=is_matrix
        ),
    )


def loss(a_BE: jax.Array, b_BE: jax.Array, logit_scale: jax.Array | float) -> jax.Array:
    """CLIP's loss of two lists of unit vectors: the mean of both directions.

    Row i of one belongs to row i of the other; all other rows are negatives.

    Args:
      a_BE: float[B, E].
      b_BE: float[B, E].
      logit_scale: Inverse temperature.

    Returns:
      A scalar; log(B) where all vectors are equal.
    """
    chex.assert_equal_shape([a_BE, b_BE])
    logits_BB = logit_scale * a_BE @ b_BE.T
    labels_B = jnp.arange(len(a_BE))
    forth, back = (
        optax.softmax_cross_entropy_with_integer_labels(logits, labels_B).mean()
        for logits in (logits_BB, logits_BB.T)
    )
    return (forth + back) / 2


def clamped(log_scale: jax.Array) -> jax.Array:
    """The learnt inverse temperature, at most 100; its gradient is 0 above."""
    return jnp.exp(jnp.minimum(log_scale, math.log(_MAX_LOGIT_SCALE)))


def total_loss(
    model: clip.Clip, batch: Batch, config: ContrastiveConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Picture to text, and text to its second view.

    Returns:
      The loss, and by name: `loss`, `loss_text` (0 where its weight is), `logit_scale`,
      and `found`, the share of texts that find their picture in the batch.
    """
    pixels = clip.normalize_pixels(batch.pictures_BYXC)
    pictures_BE = model.embed_pictures(pixels, batch.kept_BP)
    logit_scale = clamped(model.logit_scale[...])
    texts_BE, text_loss = model.embed_texts(batch.texts_BL), jnp.zeros(())
    if config.text_weight:
        rare_BE = model.embed_texts(batch.rare_texts_BL)
        text_loss = loss(texts_BE, rare_BE, config.text_logit_scale)
    pair_loss = loss(pictures_BE, texts_BE, logit_scale)
    nearest_B = (texts_BE @ pictures_BE.T).argmax(axis=1)
    metrics = {
        "loss": pair_loss,
        "loss_text": text_loss,
        "logit_scale": logit_scale,
        "found": jnp.mean(nearest_B == jnp.arange(len(nearest_B))),
    }
    return pair_loss + config.text_weight * text_loss, metrics


def _make_step(
    definition: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: ContrastiveConfig,
) -> Step:
    """Compiles one update."""

    def step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        """One update from one batch."""

        def of_params(params):
            """The loss of parameters."""
            return total_loss(nnx.merge(definition, params), batch, config)

        gradients, metrics = jax.grad(of_params, has_aux=True)(state.params)
        before = cast(optax.Params, state.params)  # optax takes any pytree
        updates, memory = optimizer.update(gradients, state.optimizer, before)
        params = cast(nnx.State, optax.apply_updates(before, updates))
        return State(params, memory), metrics

    return jax.jit(step, donate_argnums=0)


class AbstractPictures(Protocol):
    """What gives pictures by their numbers: an array, or a reader of files."""

    def __len__(self) -> int:
        """Number of pictures N."""
        ...

    def __getitem__(self, places: np.ndarray, /) -> np.ndarray:
        """Returns uint8[B, Y, X, 3]."""
        ...


class Pairs:
    """Endless batches of pairs; every batch depends on the seed and its number alone."""

    def __init__(
        self,
        pictures: AbstractPictures,
        texts: Sequence[Sequence[int]],
        shape: clip.ClipConfig,
        config: ContrastiveConfig,
        *,
        bos_id: int = 0,
    ):
        """Takes the documents.

        Args:
          pictures: N pictures of the shape's size.
          texts: Their N texts as ids, begin and end not included.
          shape: Of the bi-encoder: text length, number of patches.
          config: Batch size, drops and seed.
          bos_id: Id that begins a text.

        Raises:
          ValueError: If there are fewer pairs than a batch holds.
        """
        if len(texts) < config.batch_size or len(texts) != len(pictures):
            raise ValueError(
                f"{len(texts)} texts and {len(pictures)} pictures for batches of"
                f" {config.batch_size}; add pairs or lower config.train.batch_size"
            )
        self._pictures, self._shape, self._config = pictures, shape, config
        longest = max(len(ids) for ids in texts)
        self._length = min(shape.max_length, -(-(longest + 2) // 4) * 4)
        self._bos_id = bos_id
        self._lengths_N = np.array([min(len(t), self._length - 2) for t in texts])
        self._ids_NL = np.full((len(texts), self._length - 2), shape.eos_id, np.int32)
        for row, ids in zip(self._ids_NL, texts, strict=True):
            row[: len(ids)] = ids[: self._length - 2]
        self._keep_probs_V = keep_probs(texts, shape.vocab_size, config.rare_share)
        self._rare_length = self._length_of_rare(texts)
        self._step = 0

    def __next__(self) -> Batch:
        """Returns the next batch."""
        rng = np.random.default_rng([self._config.seed, 1, self._step])
        places_B = self._places()
        self._step += 1
        ids_BL, lengths_B = self._ids_NL[places_B], self._lengths_N[places_B]
        keep_prob = 1 - self._config.piece_drop_prob
        num_patches = self._shape.num_patches
        num_kept = max(1, num_patches - int(num_patches * self._config.patch_drop_prob))
        order_BP = rng.random((len(places_B), num_patches)).argsort(axis=1)
        rare_BL = self._framed(ids_BL, lengths_B, self._keep_probs_V[ids_BL], rng)
        rare_BL[:, self._rare_length - 1] = self._shape.eos_id
        return Batch(
            np.asarray(self._pictures[places_B]),
            np.sort(order_BP[:, :num_kept], axis=1).astype(np.int32),
            self._framed(ids_BL, lengths_B, keep_prob, rng),
            rare_BL[:, : self._rare_length],
        )

    def get_state(self) -> int:
        """Returns the number of the next batch."""
        return self._step

    def set_state(self, state: int) -> None:
        """Continues at a batch's number."""
        self._step = state

    def _places(self) -> np.ndarray:
        """The rows of this step: epochs are permutations, a short rest is left out."""
        size = self._config.batch_size
        epoch, number = divmod(self._step, len(self._ids_NL) // size)
        order_N = np.random.default_rng([self._config.seed, 0, epoch]).permutation(
            len(self._ids_NL)
        )
        return order_N[number * size : (number + 1) * size]

    def _length_of_rare(self, texts: Sequence[Sequence[int]]) -> int:
        """Positions for a second view: what the longest keeps, and 3 deviations more.

        The view is shorter than the text, and so costs less; few lose a piece by it.
        """
        kept = max(self._keep_probs_V[np.asarray(ids, int)].sum() for ids in texts)
        return min(self._length, -(-int(kept + 3 * kept**0.5 + 2) // 4) * 4)

    def _framed(
        self,
        ids_BL: np.ndarray,
        lengths_B: np.ndarray,
        keep_prob: float | np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Drops pieces, closes the gaps, puts begin and end around."""
        is_real_BL = np.arange(ids_BL.shape[1])[None] < lengths_B[:, None]
        is_kept_BL = is_real_BL & (rng.random(ids_BL.shape) < keep_prob)
        order_BL = np.argsort(~is_kept_BL, axis=1, kind="stable")
        kept_BL = np.take_along_axis(
            np.where(is_kept_BL, ids_BL, self._shape.eos_id), order_BL, axis=1
        )
        return np.pad(
            kept_BL,
            ((0, 0), (1, 1)),
            constant_values=((0, 0), (self._bos_id, self._shape.eos_id)),
        ).astype(np.int32)


def keep_probs(
    texts: Sequence[Sequence[int]], vocab_size: int, rare_share: float
) -> np.ndarray:
    """How often the second view keeps each piece.

    A piece that a share f of the texts have is kept with min(1, rare_share / f): no
    piece is in more second views than `rare_share`. (Mikolov et al. take the square
    root, which leaves more of the frequent ones.)

        texts       [1 2] [1 3] [1 2] [1 2],  rare_share 0.25
        keep_probs  1: 0.25   2: 0.333   3: 1

    Returns:
      float32[vocab_size].
    """
    counts_V = np.zeros(vocab_size)
    for ids in texts:
        counts_V[np.unique(np.asarray(ids, int))] += 1
    shares_V = np.maximum(counts_V, 1) / len(texts)
    return np.minimum(1, rare_share / shares_V).astype(np.float32)
