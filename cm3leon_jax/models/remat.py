"""What the backward pass computes again instead of keeping it, by name."""

from collections.abc import Callable
from typing import Any

import jax

from cm3leon_jax.models import kernels

# none     nothing: all intermediate values are kept
# full     the whole layer, from its input
# dots     all but products with weights, and what the attention kernel kept
# offload  the same, kept in the host's memory
POLICIES = ("none", "full", "dots", "offload")


def policy_of(name: str) -> Callable[..., Any]:
    """Returns the policy for `jax.checkpoint` of a name other than "none"."""
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "dots":
        products = policies.dots_with_no_batch_dims_saveable
        kept = policies.save_only_these_names(kernels.SAVED)
    else:
        places = ("device", "pinned_host")
        products = policies.offload_dot_with_no_batch_dims(*places)
        kept = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=(),
            names_which_can_be_offloaded=(kernels.SAVED,),
            offload_src=places[0],
            offload_dst=places[1],
        )

    def policy(primitive, *args, **params):
        """Keeps products, and of what has a name an attention kernel's results."""
        chosen = kept if primitive.name == "name" else products
        return chosen(primitive, *args, **params)

    return policy
