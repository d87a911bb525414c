"""What the page's buttons do: what a person set becomes a request, and is made.

Pictures come as the page has them: enlarged, with a mask painted on them. Every mistake
is a ValueError with a line for the person.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cm3leon_jax.api import Ask, Sampling
from cm3leon_jax.reports import page as reports
from cm3leon_jax.serve import studio as studios
from cm3leon_jax.serve.studio import Shown, Studio

_NO_PICTURE = "choose a picture first, from the gallery or a file"


def draw(
    studio: Studio,
    text: str,
    count: float,
    guidance: float,
    temperature: float,
    top_p: float,
    seed: str | None,
    retrieve: float,
) -> Iterator[Shown]:
    """Draws `count` pictures of a text."""
    how = Sampling(temperature=temperature, top_p=top_p, guidance=guidance)
    asked = Ask(
        "draw",
        _said(text, "say what to draw"),
        seed=studios.seed_of(seed),
        retrieve=int(retrieve),
        sampling=how,
    )
    return studio.make(asked, int(count))


def edit(
    studio: Studio,
    picture: np.ndarray | None,
    text: str,
    guidance: float,
    image_guidance: float,
    temperature: float,
    seed: str | None,
) -> Iterator[Shown]:
    """Changes a picture as told."""
    asked = Ask(
        "edit",
        _said(text, "say what to change"),
        _given(studio, picture),
        seed=studios.seed_of(seed),
        sampling=Sampling(
            temperature=temperature,
            guidance=guidance,
            image_guidance=image_guidance,
        ),
    )
    return studio.make(asked)


def fill(
    studio: Studio,
    painted: Mapping[str, Any] | None,
    text: str | None,
    temperature: float,
    seed: str | None,
) -> Iterator[Shown]:
    """Draws anew what was painted over.

    Args:
      studio: Where it is made.
      painted: `background` uint8[Y, X, 4] and `layers` of that size, whose paint is
        where they are not transparent.
      text: What the whole picture shows, or empty.
      temperature: Of the drawing.
      seed: As it was typed.
    """
    if not painted or painted["background"] is None:
        raise ValueError(_NO_PICTURE)
    whole = np.asarray(painted["background"])[..., :3]
    mask = np.zeros(whole.shape[:2], bool)
    for layer in painted["layers"]:
        mask |= np.asarray(layer)[..., 3] > 0
    if not mask.any():
        raise ValueError("paint over what is to be drawn anew first")
    picture = _given(studio, whole)
    if picture.shape != whole.shape:  # it was enlarged, and the mask with it
        size = len(picture)
        factor = len(mask) // size
        cells = mask.reshape(size, factor, size, factor)
        mask = np.asarray(cells.any(axis=(1, 3)), bool)
    asked = Ask(
        "infill",
        (text or "").strip(),
        picture,
        mask=mask,
        seed=studios.seed_of(seed),
        sampling=Sampling(temperature=temperature),
    )
    return studio.make(asked)


def write(
    studio: Studio, kind: str, picture: np.ndarray | None, question: str
) -> Shown:
    """Describes a picture (`caption`, `caption_long`), or answers a question."""
    text = _said(question, "ask a question") if kind == "answer" else ""
    how = Sampling(temperature=0.0)
    return studio.write(Ask(kind, text, _given(studio, picture), sampling=how))


def origin(shown: Shown) -> str:
    """Where it comes from, as a table for a person; every value is escaped.

    While it is being drawn, the documents that it looks at.
    """
    near = [
        reports.picture(each.picture, each.text)
        if each.picture is not None
        else reports.say("", each.text)
        for each in shown.near
    ]
    documents = reports.row(near) if near else ""
    if shown.origin is None:
        what = "It looks at these documents first:" if near else "Nothing was made yet."
        return f"<p>{what}</p>{documents}"
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in studios.describe(shown.origin)
    ]
    return f"<table>{''.join(rows)}</table>{documents}"


def _said(text: str, what: str) -> str:
    if not (text or "").strip():
        raise ValueError(f"{what} first")
    return text.strip()


def _given(studio: Studio, picture: np.ndarray | None) -> np.ndarray:
    if picture is None:
        raise ValueError(_NO_PICTURE)
    return studios.shrink(np.asarray(picture), studio.image_size)
