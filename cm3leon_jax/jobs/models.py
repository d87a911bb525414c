"""The model that a config names, on the devices of its mesh: for jobs that only use one."""

from __future__ import annotations

from typing import Any

import ml_collections

from cm3leon_jax import api, sharding
from cm3leon_jax.decoding import engine


def load(config: ml_collections.ConfigDict) -> api.Model:
    """Returns the model of `config.model`.

    Args:
      config: With `shapes`, those that are compiled, and `mesh`, how this process's
        devices share the work.

    Raises:
      FileNotFoundError: If there is no such model.
      ValueError: If the mesh does not fit devices and model.
    """
    sizes = config.shapes.to_dict().items()
    shapes: dict[str, Any] = {name: tuple(several) for name, several in sizes}
    mesh = sharding.MeshConfig(**config.mesh.to_dict())
    return api.load(config.model, shapes=engine.Shapes(**shapes), mesh=mesh)
