"""Where a picture comes from, inside the picture: a PNG with a text chunk.

The chunk `cm3leon` holds JSON: what was asked, seed, sampling, digest of the weights,
and id, source, licence and link of every retrieved document.
"""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

CHUNK = "cm3leon"  # name of the PNG's text chunk


def png(picture: np.ndarray, provenance: Mapping[str, Any]) -> bytes:
    """Returns a PNG file that carries where the picture comes from.

    Args:
      picture: uint8[Y, X, 3].
      provenance: JSON values.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt(CHUNK, json.dumps(provenance, ensure_ascii=False))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def read(path: pathlib.Path) -> dict[str, Any]:
    """Returns what `png` wrote into a file.

    Raises:
      ValueError: If the file is no PNG that carries it.
    """
    with Image.open(path) as picture:
        text = getattr(picture, "text", {}).get(CHUNK)
    if text is None:
        raise ValueError(f"{path} does not say where it comes from")
    return json.loads(text)
