"""Image tokenizers and super-resolution networks from other programs, and to them."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

import ml_collections

from cm3leon_jax.convert import super_resolution, vqgan
from cm3leon_jax.jobs import folder

_Convert = Callable[[str, str], None]


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `config.target` from `config.source`.

    Raises:
      FileNotFoundError: If there are no weights.
      ValueError: If they are of another network, not finite or no plain tensors; if the
        other program has no such shape; if the target holds something.
    """
    convert = _direction(config)
    for name in ("source", "target"):
        if not config[name]:
            raise ValueError(f"no --config.{name}; name a file or a folder")
    target = pathlib.Path(config.target)
    is_taken = any(target.iterdir()) if target.is_dir() else target.exists()
    if is_taken and folder.summary(workdir) is None:
        raise ValueError(f"{target} is there already; name another target")
    if not folder.start(config, workdir):
        return
    convert(config.source, config.target)
    written = sorted(target.rglob("*")) if target.is_dir() else [target]
    size = sum(path.stat().st_size for path in written)
    print(f"{target}: {size / 1e6:.2f} MB")
    folder.finish(workdir, {"num_bytes": size})


def _direction(config: ml_collections.ConfigDict) -> _Convert:
    """What reads the source and writes the target."""
    known: dict[str, _Convert] = {
        f"to_{naming}": functools.partial(vqgan.export, naming=naming)
        for naming in vqgan.NAMINGS
    }
    known["from_vqgan"] = functools.partial(vqgan.load, image_size=config.image_size)
    known["from_real_esrgan"] = super_resolution.load
    known["to_real_esrgan"] = super_resolution.export
    if config.direction not in known:
        raise ValueError(
            f"direction={config.direction!r} must be one of {', '.join(known)}"
        )
    return known[config.direction]
