"""What the page does, without the page: requests made, shown as they come, kept.

    gallery/000001.png    a picture that was made; where it comes from is inside
    gallery/000001.json   the same beside it

A picture is shown enlarged by a whole factor, so that one of 64 pixels can be seen and
painted on; `shrink` takes the enlargement back exactly.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from cm3leon_jax import api, storage
from cm3leon_jax.api import Ask, Near
from cm3leon_jax.reports import provenance

_SHOWN_SIZE = 384  # pixels a side, at least
_MAX_SEED = 2**31


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
      max_pictures: Pictures of one request.
      max_letters: Of one text.
      max_upload_mb: Of one picture.
      max_waiting: Requests that wait for their turn; one runs at a time.
    """

    max_pictures: int = 4
    max_letters: int = 1_000
    max_upload_mb: float = 10.0
    max_waiting: int = 16

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value} must be positive")


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows of a request.

    Attributes:
      pictures: As they are, uint8[Y, X, 3].
      text: What was written, or empty.
      origin: Where it comes from, as JSON values; None while it is not finished.
      files: The pictures in the gallery, when finished.
      near: The retrieved documents.
    """

    pictures: list[np.ndarray]
    text: str = ""
    origin: dict[str, Any] | None = None
    files: tuple[pathlib.Path, ...] = ()
    near: tuple[Near, ...] = ()


class Studio:
    """A model, and the folder where its pictures are kept."""

    def __init__(self, model: api.Model, folder: pathlib.Path, limits: Limits):
        """Makes the gallery's folder.

        Args:
          model: What to try.
          folder: The job's.
          limits: What one visitor may ask for.
        """
        self.model, self.limits, self.folder = model, limits, folder
        self.image_size = model.writer.image_size
        self._gallery = folder / "gallery"
        self._gallery.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def make(self, ask: Ask, count: int = 1) -> Iterator[Shown]:
        """Yields pictures row by row, then finished and kept.

        Args:
          ask: For pictures; those after the first have the next seeds.
          count: How many.

        Raises:
          ValueError: If it cannot be made; nothing is kept then.
        """
        if not 1 <= count <= self.limits.max_pictures:
            raise ValueError(
                f"{count} pictures; ask for 1 to {self.limits.max_pictures}"
            )
        self._check(ask)
        near = tuple(self.model.near(ask.words, ask.retrieve)) if ask.retrieve else ()
        asks = [dataclasses.replace(ask, seed=ask.seed + i) for i in range(count)]
        made: list[api.Made] = []
        for made in self.model.stream(asks):
            pictures = [each.picture for each in made if each.picture is not None]
            yield Shown(pictures, near=near)
        files = tuple(map(self._keep, made))
        pictures = [each.picture for each in made if each.picture is not None]
        yield Shown(pictures, origin=made[0].provenance, files=files, near=near)

    def write(self, ask: Ask) -> Shown:
        """Writes a caption or an answer; texts are not kept.

        Raises:
          ValueError: If it cannot be written.
        """
        self._check(ask)
        made = self.model.fulfil([ask])[0]
        return Shown([], text=made.text or "", origin=made.provenance)

    def warm_up(self, guidance: float) -> None:
        """Compiles what most requests need, so that the first visitor does not wait."""
        how = api.Sampling(guidance=guidance, top_p=0.9)
        asked = Ask("draw", "a picture", sampling=how)
        for _ in self.model.stream([asked]):
            pass
        blank = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        plain = api.Sampling(temperature=0.0)
        self.model.fulfil([Ask("caption", picture=blank, sampling=plain)])

    def gallery(self) -> list[tuple[str, str]]:
        """Files and what was asked for, the newest first."""
        found = []
        for path in sorted(self._gallery.glob("*.json"), reverse=True):
            origin = storage.read_json(path)
            found.append((str(path.with_suffix(".png")), origin["prompt"] or "?"))
        return found

    def read(self, path: str) -> Shown:
        """A picture of the gallery, with where it comes from, and what it looked at.

        Raises:
          ValueError: If it is no file of the gallery.
        """
        file = pathlib.Path(path).resolve()
        if file.parent != self._gallery.resolve() or not file.exists():
            raise ValueError(f"{path} is not in the gallery; choose one that is")
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        origin = provenance.read(file)
        return Shown([pixels], origin=origin, files=(file,), near=self._seen(origin))

    @property
    def has_bank(self) -> bool:
        """Whether there are documents to retrieve."""
        return self.model.bank is not None

    def _seen(self, origin: dict[str, Any]) -> tuple[Near, ...]:
        """The documents of an origin, as far as this bank finds them by its words."""
        ids = [each["id"] for each in origin["retrieved"]]
        if not ids or not self.has_bank:
            return ()
        near = self.model.near(origin["prompt"], len(ids))
        by_id = {each.provenance["id"]: each for each in near}
        return tuple(by_id[one] for one in ids if one in by_id)

    def _check(self, ask: Ask) -> None:
        if len(ask.text) > self.limits.max_letters:
            raise ValueError(
                f"the text has {len(ask.text)} letters; use {self.limits.max_letters} at"
                " most"
            )
        self.model.check(ask)

    def _keep(self, made: api.Made) -> pathlib.Path:
        """Writes a picture into the gallery, the JSON last."""
        if made.picture is None:
            raise ValueError("nothing was drawn")
        with self._lock:
            names = [int(path.stem) for path in self._gallery.glob("[0-9]*.png")]
            path = self._gallery / f"{max(names, default=0) + 1:06d}.png"
            storage.write_bytes(path, provenance.png(made.picture, made.provenance))
            storage.write_json(path.with_suffix(".json"), made.provenance)
        return path


def seed_of(text: str | None) -> int:
    """The seed that a person typed; a random one if none (a box never shown has None).

    Raises:
      ValueError: If it is no whole number of at least 0.
    """
    text = (text or "").strip()
    if not text:
        return random.randrange(_MAX_SEED)
    if not text.isdecimal():
        raise ValueError(
            f"seed {text!r} must be a whole number, or empty for a new one"
        )
    return int(text)


def enlarge(picture: np.ndarray) -> np.ndarray:
    """Returns a picture with every pixel repeated, at least as large as is shown."""
    factor = _factor(picture.shape[0])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """Returns the picture that `enlarge` made this one of; another one as it is.

    Args:
      picture: uint8[Y, X, 3].
      size: Pixels a side of the model's pictures.
    """
    factor = _factor(size)
    small = picture[::factor, ::factor]
    is_ours = small.shape[:2] == (size, size)
    return small if is_ours and np.array_equal(enlarge(small), picture) else picture


def describe(origin: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a picture comes from, as lines for a person: name and value."""
    sampling = origin["sampling"]
    changed = {
        name: value
        for name, value in sampling.items()
        if value != getattr(api.Sampling(), name)
    }
    lines = [
        ("Asked", f"{origin['kind']}: {origin['prompt']}"),
        ("Seed", str(origin["seed"])),
        ("Model", f"checkpoint {origin['checkpoint'][:12]}…"),
        ("Settings", ", ".join(f"{k} {v}" for k, v in changed.items()) or "plain"),
    ]
    for each in origin["retrieved"]:
        licence = each["licence"] or "licence unknown"
        source = each["source"] or "source unknown"
        parts = [each["id"], source, licence, each["url"], f"score {each['score']}"]
        lines.append(("Looked at", ", ".join(filter(None, parts))))
    if not origin["retrieved"]:
        lines.append(("Looked at", "no documents"))
    return lines


def as_json(origin: dict[str, Any] | None) -> str:
    """The whole origin as text."""
    return "" if origin is None else json.dumps(origin, indent=2, ensure_ascii=False)


def _factor(size: int) -> int:
    return max(1, -(-_SHOWN_SIZE // size))
