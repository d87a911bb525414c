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
from flax import nnx

from cm3leon_jax.models import convolution, quantizer, vqgan
from cm3leon_jax.models import discriminator as discriminators
from cm3leon_jax.models import lpips as lpips_lib
from cm3leon_jax.train import codebook as codebooks
from cm3leon_jax.train import perceptual, players


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms.

    Attributes:
      l1_weight: of the mean absolute difference of pixels in [-1, 1].
      l2_weight: of the mean squared difference.
      gradient_pyramid_weight: of the stand-in for a perceptual loss.
      lpips_weight: of LPIPS, whose network the step is given then.
      crop_size: pixels a side that each given box is resized to, see `Crops`.
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
    lpips_weight: float = 0.0
    crop_size: int = 32
    codebook_weight: float = 1.0
    beta: float = 0.25
    beta_legacy: bool = False
    adversarial_weight: float = 0.8
    adversarial_start: int = 250_001
    adversarial_ramp: int = 1_000


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


class Aids(NamedTuple):
    """What a step may be given beside pictures.

    Attributes:
      crops: boxes in the pictures that count more, or None.
      lpips: the network of the perceptual term, or None; it is not trained.
    """

    crops: perceptual.Crops | None = None
    lpips: lpips_lib.Lpips | None = None


NO_AIDS = Aids()


def init(
    shape: vqgan.VqganConfig,
    discriminator: discriminators.DiscriminatorConfig,
    loss: LossConfig,
    optimizer: players.OptimizerConfig,
    *,
    seed: int,
    model: vqgan.Vqgan | None = None,
    num_latents: int = 0,
) -> PixelState:
    """Returns the state before the first step.

    Args:
      shape: of the tokenizer.
      discriminator: of the discriminator; not used without an adversarial weight.
      loss: whether there is one.
      optimizer: of both players.
      seed: of the first weights.
      model: weights to start from; None for new ones.
      num_latents: of a batch: each entry of a given model's codebook begins as if it
        had won its share of them.
    """
    count = num_latents / shape.codebook_size if model is not None else 0.0

    @jax.jit  # one program for all weights; one by one they compile far longer
    def make(model) -> PixelState:
        """Both players and their moments."""
        both = players.optimizers(optimizer)
        # "rbg" compiles several times faster than threefry, at every kernel's shape.
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
        if model is None:
            model = vqgan.Vqgan(shape, rngs=rngs)
        judge, judge_optimizer = None, None
        if loss.adversarial_weight:
            judge = discriminators.PatchDiscriminator(discriminator, rngs=rngs)
            judge_optimizer = both.discriminator.init(players.vector(judge))
        return PixelState(
            step=jnp.zeros((), jnp.int32),
            model=model,
            average_W=players.vector(model),
            discriminator=judge,
            optimizer=(both.model.init(players.vector(model)), judge_optimizer),
            counts=codebooks.init(model.quantize.entries(), count),
        )

    return make(model)


def averaged(state: PixelState) -> vqgan.Vqgan:
    """Returns the tokenizer with the moving average of its weights.

    The codebook is taken as it is: half-way between an entry's old place and the one
    where it was revived there is nothing.
    """
    model = players.like(state.model, state.average_W)
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
    output_BYXC: jax.Array,
    image_BYXC: jax.Array,
    config: LossConfig,
    aids: Aids = NO_AIDS,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the weighted sum of the terms between pictures, and each by name."""
    chex.assert_equal_shape([output_BYXC, image_BYXC])
    terms = {"l1": jnp.mean(jnp.abs(output_BYXC - image_BYXC))}
    total = config.l1_weight * terms["l1"]
    terms["l2"] = jnp.mean((output_BYXC - image_BYXC) ** 2)
    total += config.l2_weight * terms["l2"]
    if config.gradient_pyramid_weight > 0:
        pyramid = perceptual.gradient_pyramid(output_BYXC, image_BYXC)
        terms["gradient_pyramid"] = pyramid
        total += config.gradient_pyramid_weight * pyramid
    if aids.lpips is not None:
        terms["lpips"] = jnp.mean(aids.lpips(output_BYXC, image_BYXC))
        total += config.lpips_weight * terms["lpips"]
    if aids.crops is not None:
        terms["crops"] = perceptual.crop_loss(
            output_BYXC, image_BYXC, aids.crops, config.crop_size, aids.lpips
        )
        total += terms["crops"]
    return total, terms | {"reconstruction": total}


def make_step(
    loss: LossConfig,
    codebook: codebooks.CodebookConfig,
    optimizer: players.OptimizerConfig,
) -> Callable[..., tuple[PixelState, dict[str, jax.Array]]]:
    """Returns `step(state, pictures, aids) -> (state, metrics)`, for the caller to jit.

    `pictures` is uint8[B, Y, X, 3], `aids` an `Aids`, which may be left out. The same
    state and pictures give the same result.
    A step whose gradients are not finite changes no weight and counts as `skipped`.
    """
    both = players.optimizers(optimizer)
    revive_steps = codebook.revive_until * optimizer.num_steps

    def step(state: PixelState, pictures_BYXC: jax.Array, aids: Aids = NO_AIDS):
        """One move of both players, then the codebook's."""
        image_BYXC = vqgan.from_bytes(pictures_BYXC)
        objective = _objective(state, image_BYXC, loss, codebook.use_mean, aids)
        gradients, (output_BYXC, quantized, metrics) = jax.grad(
            objective, has_aux=True
        )(state.model)
        model, model_optimizer, skipped = players.apply(
            both.model, gradients, state.optimizer[0], state.model
        )
        discriminator, discriminator_optimizer, more = _discriminator_step(
            state, image_BYXC, output_BYXC, loss, both.discriminator
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
        average_W = players.average(
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


def _objective(
    state: PixelState, image_BYXC, loss: LossConfig, use_mean: bool, aids: Aids
):
    """Returns what the tokenizer minimises, as a function of the tokenizer."""

    def objective(model: vqgan.Vqgan):
        """The sum of the tokenizer's terms; its output and numbers beside it."""
        assert model.decoder is not None
        quantized = model.quantize(model.latents(image_BYXC))
        features_BYXC = model.decoder.features(
            model.post_quant_conv(quantized.vectors_BYXD)
        )
        output_BYXC = model.decoder.last(features_BYXC)
        total, terms = reconstruction_loss(output_BYXC, image_BYXC, loss, aids)
        if use_mean:
            total += loss.codebook_weight * loss.beta * quantized.commitment_loss
        else:
            total += codebook_terms(quantized, loss)
        if state.discriminator is not None:
            term, more = _adversarial(
                state, model, features_BYXC, image_BYXC, loss, aids
            )
            total, terms = total + term, terms | more
        terms |= {"loss": total, "commitment": quantized.commitment_loss}
        return total, (output_BYXC, quantized, terms)

    return objective


def _adversarial(state, model, features_BYXC, image_BYXC, loss: LossConfig, aids: Aids):
    """Returns the tokenizer's adversarial term, scaled, and its numbers."""
    judge = state.discriminator
    fixed_BYXC = jax.lax.stop_gradient(features_BYXC)
    last = lambda conv: convolution.unfold(conv(fixed_BYXC), model.decoder.patch_size)
    reconstruct = lambda conv: reconstruction_loss(last(conv), image_BYXC, loss, aids)[
        0
    ]
    deceive = lambda conv: -jnp.mean(judge(last(conv)))
    held = jax.lax.stop_gradient(model.decoder.conv_out)
    weight = players.adaptive_weight(
        jax.grad(reconstruct)(held).kernel[...], jax.grad(deceive)(held).kernel[...]
    )
    term = -jnp.mean(judge(model.decoder.last(features_BYXC)))
    scale = (
        loss.adversarial_weight
        * players.ramp(state.step, loss.adversarial_start, loss.adversarial_ramp)
        * weight
    )
    return scale * term, {"adversarial": term, "adaptive_weight": weight}


def _discriminator_step(state, image_BYXC, output_BYXC, loss, player):
    judge, optimizer = state.discriminator, state.optimizer[1]
    if judge is None:
        return None, None, {}
    fake_BYXC = jax.lax.stop_gradient(output_BYXC)
    plays = (state.step >= loss.adversarial_start).astype(jnp.float32)

    def objective(judge):
        """The discriminator's loss."""
        return plays * players.hinge_loss(judge(image_BYXC), judge(fake_BYXC))

    value, gradients = jax.value_and_grad(objective)(judge)
    judge, optimizer, skipped = players.apply(player, gradients, optimizer, judge)
    metrics = {"discriminator": value, "discriminator_skipped": skipped}
    return judge, optimizer, metrics
