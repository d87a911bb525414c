"""Picture files -> uint8[N, N, 3], by one written rule, with untrusted input in mind.

1. At most `max_bytes`; the header's size at most `max_pixels`, checked before a pixel
   is decoded; the shorter side at least `min_side`, the longer at most `max_aspect`
   times it.
2. The first frame of an animation. Turned as EXIF says.
3. Colours: 16-bit grey is divided by 257; transparent pixels are laid on white; every
   other mode goes to RGB by Pillow's `convert`. Floating-point pictures are refused,
   since their range is not known.
4. The shorter side is resized to N (bicubic, anti-aliased), the middle N x N is cut
   out (an odd pixel too many falls off at the right and the bottom). A picture that
   has N x N already is left as it is.

Pillow decodes; nothing else ever sees the file's bytes.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import struct
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob
from cm3leon_jax.data.sources.blob import AbstractBlob

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 lie on their side

# What Pillow's decoders are known to raise on damaged or hostile files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    ZeroDivisionError,
    OverflowError,
    MemoryError,
    struct.error,
)


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """What is accepted, and the size that comes out.

    Attributes:
      image_size: Pixels a side of what comes out (N).
      max_bytes: Largest file.
      max_pixels: Most pixels that a header may announce.
      min_side: Fewest pixels of the shorter side.
      max_aspect: Most times that the longer side may exceed the shorter.
    """

    image_size: int = 256
    max_bytes: int = 64_000_000
    max_pixels: int = 50_000_000
    min_side: int = 8
    max_aspect: float = 8.0


Place = str | os.PathLike[str] | AbstractBlob  # a file, or a piece of a larger one


def load(place: Place, config: PictureConfig) -> np.ndarray:
    """Reads one picture by the module's rule.

    Returns:
      uint8[N, N, 3].

    Raises:
      RefusedError: If the file is missing or refused.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of what rule 1 refuses, and of harmless metadata.
            warnings.simplefilter("ignore")
            with _open(place, config.max_bytes) as picture:
                _check_size(picture, config)
                return _pixels(picture, config.image_size)
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError(Reason.TOO_MANY_PIXELS, str(error)[:120]) from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise RefusedError(
            Reason.UNREADABLE, f"no picture of a known format ({known})"
        ) from error
    except _DECODER_ERRORS as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise RefusedError(
            Reason.UNREADABLE, f"{first[:120]}; replace or delete it"
        ) from error


def _open(place: Place, max_bytes: int) -> Image.Image:
    """Reads the bytes and the header; the pixels are not decoded yet."""
    if isinstance(place, str | os.PathLike):
        place = blob.File(pathlib.Path(place))
    return Image.open(io.BytesIO(place.read(max_bytes)), formats=FORMATS)


def crop_boxes(
    boxes: Sequence[Sequence[float] | np.ndarray], width: int, height: int
) -> np.ndarray:
    """Carries boxes in a picture's pixels over to what `load` makes of it.

        a picture of 100 x 50, its middle half     boxes [[50 0 100 50]]
        shares of the 50 x 50 in its middle               [[0.5 0 1 1]]

    Args:
      boxes: M boxes (x0, y0, x1, y1), ends exclusive.
      width: Of the picture as it is shown (EXIF followed), in pixels.
      height: Likewise.

    Returns:
      float64[M, 4], shares of the square, clipped to it; a box that was cut off
      altogether is empty.

    Raises:
      ValueError: If a box is no four numbers, or ends before it begins.
    """
    try:
        boxes_M4 = np.asarray(boxes, np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes must be four numbers each, got {boxes!r}") from error
    if not np.isfinite(boxes_M4).all() or (boxes_M4[:, :2] > boxes_M4[:, 2:]).any():
        raise ValueError(f"boxes must be x0 <= x1 and y0 <= y1, got {boxes!r}")
    side = min(width, height)
    shift = np.array([(width - side) / 2, (height - side) / 2] * 2)
    return np.clip((boxes_M4 - shift) / side, 0.0, 1.0)


def shown_size(place: Place, config: PictureConfig) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header.

    Raises:
      RefusedError: If it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(place, config.max_bytes) as picture:
                turned = picture.getexif().get(_ORIENTATION, 1) >= 5
                width, height = picture.size
                return (height, width) if turned else (width, height)
    except RefusedError:
        raise
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise RefusedError(Reason.UNREADABLE, "no readable header") from error


def _check_size(picture: Image.Image, config: PictureConfig) -> None:
    """Refuses by the header alone, before any pixel is decoded."""
    width, height = picture.size
    short, long = sorted((width, height))
    if width * height > config.max_pixels:
        raise RefusedError(
            Reason.TOO_MANY_PIXELS, f"{width} x {height}, at most {config.max_pixels}"
        )
    if short < config.min_side:
        raise RefusedError(
            Reason.TOO_SMALL, f"{width} x {height}, sides of {config.min_side} needed"
        )
    if long > config.max_aspect * short:
        raise RefusedError(
            Reason.TOO_ELONGATED, f"{width} x {height}, at most {config.max_aspect}:1"
        )


def _pixels(picture: Image.Image, size: int) -> np.ndarray:
    """Rules 2 to 4."""
    if picture.format == "JPEG":
        # A large JPEG is decoded at 1/2, 1/4 or 1/8, never below twice the target.
        picture.draft("RGB", (2 * size, 2 * size))
    else:
        picture.seek(0)
    ImageOps.exif_transpose(picture, in_place=True)  # a copy only where it turns
    picture = _to_rgb(picture)
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        resized = (max(size, round(width * scale)), max(size, round(height * scale)))
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
        left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture, np.uint8)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Rule 3."""
    mode = picture.mode
    if mode == "F":
        raise RefusedError(
            Reason.MODE, "floating-point pixels have no known range; save as 8-bit"
        )
    if mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise RefusedError(Reason.MODE, "integers beyond 16 bits; save as 8-bit")
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        front = picture.convert("RGBA")
        white = Image.new("RGBA", front.size, "white")
        return Image.alpha_composite(white, front).convert("RGB")
    return picture if mode == "RGB" else picture.convert("RGB")
