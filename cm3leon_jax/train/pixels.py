"""One training step of a VQGAN: two players, the tokenizer and the discriminator.

Pure: a state and pictures in, a state and numbers out. What the codebook does after the
gradient's step is in `codebook`.

Letters: B pictures, Y and X rows and columns, C channels (codebook entries in `CodeCounts`),
N latents of a batch, D width of a codebook entry, W weights of a network.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import flatten_util

from cm3leon_jax.models import convolution, quantizer, vqgan
from cm3leon_jax.models import discriminator as discriminators
from cm3leon_jax.train import codebook as codebooks
from cm3leon_jax.train import perceptual

MAX_ADAPTIVE_WEIGHT = 1e4  # taming-transformers, vqperceptual.py


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms.

    Attributes:
      l1_weight: of the mean absolute difference of pixels in [-1, 1].
      l2_weight: of the mean squared difference.
      gradient_pyramid_weight: of the stand-in for a perceptual loss.
      codebook_weight: of both codebook terms.
      beta: of the term that pulls latents to entries, 1 being the weight of the
        other one. Not used on a codebook of moving means but for the first.
      beta_legacy: put beta on the term that pulls entries to latents instead, as
        taming-transformers did before its `legacy=False`; its released weights
        were trained so.
      adversarial_weight: of the discriminator's term after adaptation; 0 leaves the
        discriminator out of the program altogether.
      adversarial_start: steps before either player plays.
      adversarial_ramp: steps over which the term then grows to its weight; against
        the divergence that a discriminator's sudden start can cause.
    """

    l1_weight: float = 1.0
    l2_weight: float = 0.0
    gradient_pyramid_weight: float = 1.0
    codebook_weight: float = 1.0
    beta: float = 0.25
    beta_legacy: bool = False
    adversarial_weight: float = 0.8
    adversarial_start: int = 250_001
    adversarial_ramp: int = 1_000


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam with a warm-up and a cosine, for both players.

    Attributes:
      peak_lr: the tokenizer's largest learning rate.
      discriminator_lr: the discriminator's.
      warmup_steps: linear growth.
      num_steps: steps of the whole run.
      final_share: the last learning rate over the largest.
      beta1: decay of the mean of gradients.
      beta2: decay of the mean of squares.
      clip_norm: largest norm of the gradients of a player.
      average_decay: of the moving average of the weights, which is what is
        exported.
    """

    peak_lr: float = 5e-6
    discriminator_lr: float = 4.5e-6
    warmup_steps: int = 1_000
    num_steps: int = 800_000
    final_share: float = 0.1
    beta1: float = 0.5
    beta2: float = 0.9
    clip_norm: float = 1.0
    average_decay: float = 0.999


class PixelState(NamedTuple):
    """All that a run carries from step to step.

    Attributes:
      step: int32[], steps done.
      model: the tokenizer.
      average_W: float32[W], the moving average of its weights; see `averaged`.
      discriminator: the second player, None without an adversarial term.
      optimizer: the optimizers' states of (tokenizer, discriminator or None).
      counts: use of the codebook.
    """

    step: jax.Array
    model: vqgan.Vqgan
    average_W: jax.Array
    discriminator: discriminators.PatchDiscriminator | None
    optimizer: Any
    counts: codebooks.CodeCounts


class Players(NamedTuple):
    """The optimizers of the two players."""

    model: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def optimizers(config: OptimizerConfig) -> Players:
    """Returns the two players' optimizers, of weights as one vector (see `_apply`)."""
    return Players(
        *(
            optax.chain(
                optax.clip_by_global_norm(config.clip_norm),
                optax.adam(schedule(peak, config), config.beta1, config.beta2),
            )
            for peak in (config.peak_lr, config.discriminator_lr)
        )
    )


def schedule(peak: float, config: OptimizerConfig) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then a cosine."""
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, config.warmup_steps, config.num_steps, peak * config.final_share
    )


def init(
    shape: vqgan.VqganConfig,
    discriminator: discriminators.DiscriminatorConfig,
    loss: LossConfig,
    optimizer: OptimizerConfig,
    *,
    seed: int,
) -> PixelState:
    """Returns the state before the first step.

    Args:
      shape: of the tokenizer.
      discriminator: of the discriminator; not used without an adversarial weight.
      loss: whether there is one.
      optimizer: of both players.
      seed: of the first weights.
    """

    @jax.jit  # one program for all weights; one by one they compile far longer
    def make() -> PixelState:
        """Both players and their moments."""
        players = optimizers(optimizer)
        # "rbg" compiles several times faster than threefry, at every kernel's shape.
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
        model = vqgan.Vqgan(shape, rngs=rngs)
        judge, judge_optimizer = None, None
        if loss.adversarial_weight:
            judge = discriminators.PatchDiscriminator(discriminator, rngs=rngs)
            judge_optimizer = players.discriminator.init(_vector(judge))
        return PixelState(
            step=jnp.zeros((), jnp.int32),
            model=model,
            average_W=_vector(model),
            discriminator=judge,
            optimizer=(players.model.init(_vector(model)), judge_optimizer),
            counts=codebooks.init(model.quantize.embedding[...]),
        )

    return make()


def averaged(state: PixelState) -> vqgan.Vqgan:
    """Returns the tokenizer with the moving average of its weights.

    The codebook is taken as it is: half-way between an entry's old place and the one
    where it was revived there is nothing.
    """
    model = _like(state.model, state.average_W)
    model.quantize.embedding[...] = state.model.quantize.embedding[...]
    return model


def codebook_terms(quantized: quantizer.Quantized, config: LossConfig) -> jax.Array:
    """Returns the weighted sum of the two codebook terms by the rule of `beta_legacy`."""
    if config.beta_legacy:
        total = quantized.commitment_loss + config.beta * quantized.codebook_loss
    else:
        total = quantized.codebook_loss + config.beta * quantized.commitment_loss
    return config.codebook_weight * total


def reconstruction_loss(
    output_BYXC: jax.Array, image_BYXC: jax.Array, config: LossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum of the pixel terms, and each of them by name."""
    chex.assert_equal_shape([output_BYXC, image_BYXC])
    terms = {"l1": jnp.mean(jnp.abs(output_BYXC - image_BYXC))}
    total = config.l1_weight * terms["l1"]
    terms["l2"] = jnp.mean((output_BYXC - image_BYXC) ** 2)
    total += config.l2_weight * terms["l2"]
    if config.gradient_pyramid_weight > 0:
        pyramid = perceptual.gradient_pyramid(output_BYXC, image_BYXC)
        terms["gradient_pyramid"] = pyramid
        total += config.gradient_pyramid_weight * pyramid
    return total, terms | {"reconstruction": total}


def adaptive_weight(
    reconstruction_gradient: jax.Array, adversarial_gradient: jax.Array
) -> jax.Array:
    """Returns how much the adversarial term counts, from both gradients' norms.

    The adversarial term is scaled to pull on the last layer as strongly as the
    reconstruction does, at most `MAX_ADAPTIVE_WEIGHT` times.

    Args:
      reconstruction_gradient: float[...], of the last layer's kernel.
      adversarial_gradient: float[...], likewise.

    Returns:
      float[], in [0, MAX_ADAPTIVE_WEIGHT], without gradient.

    Source: Taming Transformers, arXiv:2012.09841, equation 7.
    """
    norms = [
        jnp.sqrt(jnp.sum(gradient**2))
        for gradient in (reconstruction_gradient, adversarial_gradient)
    ]
    weight = jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, MAX_ADAPTIVE_WEIGHT)
    return jax.lax.stop_gradient(weight)


def hinge_loss(real_BYXC: jax.Array, fake_BYXC: jax.Array) -> jax.Array:
    """Returns the discriminator's hinge loss from scores of real and fake patches."""
    real = jnp.mean(jax.nn.relu(1.0 - real_BYXC))
    return 0.5 * (real + jnp.mean(jax.nn.relu(1.0 + fake_BYXC)))


def make_step(
    loss: LossConfig, codebook: codebooks.CodebookConfig, optimizer: OptimizerConfig
) -> Callable[[PixelState, jax.Array], tuple[PixelState, dict[str, jax.Array]]]:
    """Returns `step(state, pictures) -> (state, metrics)`, to be jitted by the caller.

    `pictures` is uint8[B, Y, X, 3]. The same state and pictures give the same result.
    A step whose gradients are not finite changes no weight and counts as `skipped`.
    """
    players = optimizers(optimizer)
    revive_steps = codebook.revive_until * optimizer.num_steps

    def step(state: PixelState, pictures_BYXC: jax.Array):
        """One move of both players, then the codebook's."""
        image_BYXC = vqgan.from_bytes(pictures_BYXC)
        objective = _objective(state, image_BYXC, loss, codebook.use_mean)
        gradients, (output_BYXC, quantized, metrics) = jax.grad(
            objective, has_aux=True
        )(state.model)
        model, model_optimizer, skipped = _apply(
            players.model, gradients, state.optimizer[0], state.model
        )
        discriminator, discriminator_optimizer, more = _discriminator_step(
            state, image_BYXC, output_BYXC, loss, players.discriminator
        )
        latents_ND, codes_N = _flat(quantized)
        entries_CD, counts, use = codebooks.update(
            model.quantize.embedding[...],
            state.counts,
            codes_N,
            latents_ND,
            config=codebook,
            step=state.step,
            can_revive=state.step < revive_steps,
        )
        model.quantize.embedding[...] = entries_CD
        average_W = _average(
            state.average_W, model, state.step, optimizer.average_decay
        )
        metrics |= more | use | {"skipped": skipped}
        optimizer_state = (model_optimizer, discriminator_optimizer)
        return (
            PixelState(
                state.step + 1, model, average_W, discriminator, optimizer_state, counts
            ),
            metrics,
        )

    return step


def _flat(quantized: quantizer.Quantized) -> tuple[jax.Array, jax.Array]:
    latents_BYXD = jax.lax.stop_gradient(quantized.latents_BYXD)
    latents_ND = latents_BYXD.reshape(-1, latents_BYXD.shape[-1])
    return latents_ND, quantized.codes_BYX.reshape(-1)


def _objective(state: PixelState, image_BYXC, loss: LossConfig, use_mean: bool):
    """Returns what the tokenizer minimises, as a function of the tokenizer."""

    def objective(model: vqgan.Vqgan):
        """The sum of the tokenizer's terms; its output and numbers beside it."""
        assert model.decoder is not None
        quantized = model.quantize(model.latents(image_BYXC))
        features_BYXC = model.decoder.features(
            model.post_quant_conv(quantized.vectors_BYXD)
        )
        output_BYXC = model.decoder.last(features_BYXC)
        total, terms = reconstruction_loss(output_BYXC, image_BYXC, loss)
        if use_mean:
            total += loss.codebook_weight * loss.beta * quantized.commitment_loss
        else:
            total += codebook_terms(quantized, loss)
        if state.discriminator is not None:
            term, more = _adversarial(state, model, features_BYXC, image_BYXC, loss)
            total, terms = total + term, terms | more
        terms |= {"loss": total, "commitment": quantized.commitment_loss}
        return total, (output_BYXC, quantized, terms)

    return objective


def _adversarial(state, model, features_BYXC, image_BYXC, loss: LossConfig):
    """Returns the tokenizer's adversarial term, scaled, and its numbers."""
    judge = state.discriminator
    fixed_BYXC = jax.lax.stop_gradient(features_BYXC)
    last = lambda conv: convolution.unfold(conv(fixed_BYXC), model.decoder.patch_size)
    reconstruct = lambda conv: reconstruction_loss(last(conv), image_BYXC, loss)[0]
    deceive = lambda conv: -jnp.mean(judge(last(conv)))
    held = jax.lax.stop_gradient(model.decoder.conv_out)
    weight = adaptive_weight(
        jax.grad(reconstruct)(held).kernel[...], jax.grad(deceive)(held).kernel[...]
    )
    term = -jnp.mean(judge(model.decoder.last(features_BYXC)))
    scale = loss.adversarial_weight * _ramp(state.step, loss) * weight
    return scale * term, {"adversarial": term, "adaptive_weight": weight}


def _ramp(step: jax.Array, loss: LossConfig) -> jax.Array:
    """Returns 0 before the adversarial start, then up to 1."""
    since = (step - loss.adversarial_start + 1).astype(jnp.float32)
    return jnp.clip(since / max(loss.adversarial_ramp, 1), 0.0, 1.0)


def _discriminator_step(state, image_BYXC, output_BYXC, loss, player):
    judge, optimizer = state.discriminator, state.optimizer[1]
    if judge is None:
        return None, None, {}
    fake_BYXC = jax.lax.stop_gradient(output_BYXC)
    plays = (state.step >= loss.adversarial_start).astype(jnp.float32)

    def objective(judge):
        """The discriminator's loss."""
        return plays * hinge_loss(judge(image_BYXC), judge(fake_BYXC))

    value, gradients = jax.value_and_grad(objective)(judge)
    judge, optimizer, skipped = _apply(player, gradients, optimizer, judge)
    metrics = {"discriminator": value, "discriminator_skipped": skipped}
    return judge, optimizer, metrics


def _apply(player: optax.GradientTransformation, gradients, optimizer_state, model):
    """Returns the model and optimizer after a step, unchanged if it is not finite.

    All weights are one vector here: in a small network hundreds of little operations
    take longer, to compile and to run, than the arithmetic in them.
    """
    gradients_W, weights_W = _vector(gradients), _vector(model)

    def move():
        """The weights and moments after the update."""
        updates_W, state = player.update(gradients_W, optimizer_state, weights_W)
        return weights_W + updates_W, state

    is_finite = jnp.isfinite(optax.tree.norm(gradients_W))
    # A branch, not a selection: its result is not computed anew for every weight.
    new_W, new_state = jax.lax.cond(
        is_finite, move, lambda: (weights_W, optimizer_state)
    )
    return _like(model, new_W), new_state, 1.0 - is_finite.astype(jnp.float32)


def _vector(model) -> jax.Array:
    """Returns all weights of a model: float32[W]."""
    return flatten_util.ravel_pytree(model)[0]


def _like(model, weights_W: jax.Array):
    """Returns a model with the weights of `_vector`."""
    return flatten_util.ravel_pytree(model)[1](weights_W)


def _average(average_W: jax.Array, model: vqgan.Vqgan, step: jax.Array, decay: float):
    """Returns the moving average; young averages forget faster."""
    done = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    return decay * average_W + (1.0 - decay) * _vector(model)
