"""One training step of a super-resolution network: first L1, then two players.

Pure: a state and pairs of pictures in, a state and numbers out. Before
`players_start` only the pixel term counts; from there on the perceptual and the
adversarial terms grow to their weights. The discriminator is that of the image tokenizer
(patches, hinge), where Real-ESRGAN has a U-Net with spectral normalisation.

Letters: B pictures, Y and X rows and columns, C channels, W weights of a network.

Source: ESRGAN, arXiv:1809.00219, section 3.4; Real-ESRGAN, arXiv:2107.10833, section 4.1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax.models import discriminator as discriminators
from cm3leon_jax.models import lpips as lpips_lib
from cm3leon_jax.models import super_resolution
from cm3leon_jax.models.super_resolution import SuperResolutionConfig
from cm3leon_jax.train import perceptual, players


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms.

    Attributes:
      l1_weight: of the mean absolute difference of pixels in [0, 1].
      perceptual_weight: of LPIPS where its network is given, else of the gradient
        pyramid, which stands in for it.
      adversarial_weight: of the discriminator's term; 0 leaves the discriminator out of
        the program altogether.
      players_start: steps with the pixel term alone.
      players_ramp: steps over which the other terms then grow to their weights.
    """

    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.1
    players_start: int = 1_000_000
    players_ramp: int = 1_000


class State(NamedTuple):
    """All that a run carries from step to step.

    Attributes:
      step: int32[], steps done.
      model: the network.
      average_W: float32[W], the moving average of its weights; see `averaged`.
      discriminator: the second player, None without an adversarial term.
      optimizer: the optimizers' states of (network, discriminator or None).
    """

    step: jax.Array
    model: super_resolution.SuperResolution
    average_W: jax.Array
    discriminator: discriminators.PatchDiscriminator | None
    optimizer: Any


def init(
    shape: SuperResolutionConfig,
    discriminator: discriminators.DiscriminatorConfig,
    loss: LossConfig,
    optimizer: players.OptimizerConfig,
    *,
    seed: int,
    model: super_resolution.SuperResolution | None = None,
) -> State:
    """Returns the state before the first step.

    Args:
      shape: of the network.
      discriminator: of the discriminator; not used without an adversarial weight.
      loss: whether there is one.
      optimizer: of both players.
      seed: of the first weights.
      model: weights to start from; None for new ones.
    """

    @jax.jit  # one program for all weights; one by one they compile far longer
    def make(model) -> State:
        """Both players and their moments."""
        both = players.optimizers(optimizer)
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
        if model is None:
            model = super_resolution.SuperResolution(shape, rngs=rngs)
        judge, judge_optimizer = None, None
        if loss.adversarial_weight:
            judge = discriminators.PatchDiscriminator(discriminator, rngs=rngs)
            judge_optimizer = both.discriminator.init(players.vector(judge))
        return State(
            step=jnp.zeros((), jnp.int32),
            model=model,
            average_W=players.vector(model),
            discriminator=judge,
            optimizer=(both.model.init(players.vector(model)), judge_optimizer),
        )

    return make(model)


def averaged(state: State) -> super_resolution.SuperResolution:
    """Returns the network with the moving average of its weights."""
    return players.like(state.model, state.average_W)


def make_step(
    loss: LossConfig, optimizer: players.OptimizerConfig
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """Returns `step(state, small, large, lpips) -> (state, metrics)`, for the caller to jit.

    `small` is uint8[B, Y, X, 3], `large` uint8[B, scale Y, scale X, 3]; `lpips` is the
    network of the perceptual term or None. The same arguments give the same result. A
    step whose gradients are not finite changes no weight and counts as `skipped`.
    """
    both = players.optimizers(optimizer)

    def step(
        state: State,
        small_BYXC: jax.Array,
        large_BYXC: jax.Array,
        lpips: lpips_lib.Lpips | None = None,
    ):
        """One move of both players."""
        chex.assert_equal_rank([small_BYXC, large_BYXC])
        image_BYXC = super_resolution.from_bytes(large_BYXC)
        share = players.ramp(state.step, loss.players_start, loss.players_ramp)
        objective = _objective(state, small_BYXC, image_BYXC, share, loss, lpips)
        gradients, (output_BYXC, metrics) = jax.grad(objective, has_aux=True)(
            state.model
        )
        model, model_optimizer, skipped = players.apply(
            both.model, gradients, state.optimizer[0], state.model
        )
        judge, judge_optimizer, more = _discriminator_step(
            state, image_BYXC, output_BYXC, share, both.discriminator
        )
        average_W = players.average(
            state.average_W, model, state.step, optimizer.average_decay
        )
        after = State(
            state.step + 1, model, average_W, judge, (model_optimizer, judge_optimizer)
        )
        return after, metrics | more | {"skipped": skipped}

    return step


def _signed(image_BYXC: jax.Array) -> jax.Array:
    """Pictures in [-1, 1], as the discriminator and LPIPS read them."""
    return 2.0 * image_BYXC - 1.0


def _objective(state: State, small_BYXC, image_BYXC, share, loss: LossConfig, lpips):
    """Returns what the network minimises, as a function of the network."""

    def objective(model: super_resolution.SuperResolution):
        """The sum of the terms; the output and numbers beside it."""
        output_BYXC = model(super_resolution.from_bytes(small_BYXC))
        terms = {"l1": jnp.mean(jnp.abs(output_BYXC - image_BYXC))}
        total = loss.l1_weight * terms["l1"]
        pair = _signed(output_BYXC), _signed(image_BYXC)
        if lpips is not None:
            name, term = "lpips", jnp.mean(lpips(*pair))
        else:
            name, term = "gradient_pyramid", perceptual.gradient_pyramid(*pair)
        terms[name] = term
        total += share * loss.perceptual_weight * term
        if state.discriminator is not None:
            terms["adversarial"] = -jnp.mean(state.discriminator(pair[0]))
            total += share * loss.adversarial_weight * terms["adversarial"]
        return total, (output_BYXC, terms | {"loss": total})

    return objective


def _discriminator_step(state: State, image_BYXC, output_BYXC, share, player):
    """Moves the discriminator, if there is one and it plays."""
    judge, optimizer = state.discriminator, state.optimizer[1]
    if judge is None:
        return None, None, {}
    fake_BYXC = jax.lax.stop_gradient(_signed(output_BYXC))
    real_BYXC = _signed(image_BYXC)
    plays = (share > 0).astype(jnp.float32)

    def objective(judge):
        """The hinge loss, 0 as long as the players rest."""
        return plays * players.hinge_loss(judge(real_BYXC), judge(fake_BYXC))

    value, gradients = jax.value_and_grad(objective)(judge)
    judge, optimizer, skipped = players.apply(player, gradients, optimizer, judge)
    return judge, optimizer, {"discriminator": value, "discriminator_skipped": skipped}
