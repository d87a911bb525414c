"""The page to try a model on, served until it is interrupted.

config.json   the resolved config
gallery/      what was made, see `serve.studio`
"""

from __future__ import annotations

import ipaddress
import logging
import os
import pathlib

import ml_collections

from cm3leon_jax import api, storage
from cm3leon_jax.decoding import engine
from cm3leon_jax.serve import page, studio

_LOGGER = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Opens the page.

    Raises:
      FileNotFoundError: If there is no model.
      ValueError: If gradio is missing, or a limit or address makes no sense.
    """
    root = pathlib.Path(workdir)
    built = build(config, root)
    storage.write_json(root / "config.json", config.to_dict())
    if not _is_loopback(config.host):
        _LOGGER.warning(
            "the page is open to the network at %s, to anyone who reaches it, without a"
            " password",
            config.host,
        )
    page.open_page(*built, config.host, config.port)


def build(
    config: ml_collections.ConfigDict, root: pathlib.Path
) -> tuple[object, studio.Studio]:
    """The page and what it works with."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent
    limits = studio.Limits(**config.limits.to_dict())
    defaults = page.Defaults(
        **{**config.defaults.to_dict(), "examples": tuple(config.defaults.examples)}
    )
    shapes = engine.Shapes(rows=(1, limits.max_pictures))
    model = api.load(config.model, shapes=shapes, precision=config.precision)
    ready = studio.Studio(model, root, limits)
    if config.warm_up:
        _LOGGER.info("compiling; the page opens when it is done")
        ready.warm_up(defaults.guidance)
    return page.build(ready, defaults), ready


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
