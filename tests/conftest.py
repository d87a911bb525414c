"""Shared fixtures: eight fake CPU devices, strict rank promotion, no network."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
_COUNT = "--xla_force_host_platform_device_count=8"
if _COUNT not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_COUNT}".strip()

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
