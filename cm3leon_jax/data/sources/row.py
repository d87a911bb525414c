"""What every reader yields: text and pictures in order, and where they come from.

A *pair* is one text and then one picture; whatever else is a document of its own
(interleaved, text alone, pictures alone), but for a picture that is there for a task
alone (a question's). Captions are data: nothing in them is parsed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources.blob import AbstractBlob

MAX_CAPTION_CHARS = 20_000  # several rows of text; longer is a mistake in the data
TEXT_COLUMNS = ("text", "caption", "TEXT", "prompt")
_LICENCE_COLUMNS = ("licence", "license", "LICENSE")
_URL_COLUMNS = ("url", "URL")
_HASH_COLUMNS = ("sha256", "md5", "content_hash")  # img2dataset writes the first two
_HASH = re.compile(r"(\w{1,16}:)?[0-9a-fA-F]{8,128}")

Part = str | AbstractBlob


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """How a folder is read, and what of it is taken.

    Attributes:
      reader: A name of `inputs.FORMATS`, or "auto": by what lies in the folder.
      licences: The only licences that are taken, whatever their case; an empty string
        among them stands for an unknown one. None given: all are taken.
      source: What rows without a column `source` are said to come from.
      keep_uncaptioned: Take pictures without a caption, as documents of a picture
        alone, instead of refusing them.
      text_column: The column with the caption; empty: the first of `TEXT_COLUMNS`.
      image_column: The column of a table with the picture's bytes; empty: the only
        one that can be.
    """

    reader: str = "auto"
    licences: tuple[str, ...] = ()
    source: str = ""
    keep_uncaptioned: bool = False
    text_column: str = ""
    image_column: str = ""

    def __post_init__(self):
        object.__setattr__(self, "licences", tuple(self.licences))

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names under which captions are looked for."""
        return (self.text_column,) if self.text_column else TEXT_COLUMNS


@dataclasses.dataclass(frozen=True)
class Row:
    """One picture with its text, or a document of several.

    Attributes:
      id: Unique in its source; of files, the name within the folder, with `/` on every
        system.
      root: The folder that it was read from; file names in columns belong to it.
      parts: Text, stripped and not empty, and pictures, in order; at least one.
      columns: All other columns.
      group: Rows of one group stay in one split (captions of one picture); empty for
        a row by itself.
      is_for_tasks: One picture without a caption, whose columns say what is asked of
        it: tasks see it, pretraining does not.
    """

    id: str
    root: pathlib.Path
    parts: tuple[Part, ...]
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    group: str = ""
    is_for_tasks: bool = False

    @property
    def path(self) -> pathlib.Path:
        """The picture's file, where it has one; a name for messages elsewhere."""
        return self.root / self.id

    @property
    def place(self) -> str:
        """What a person would look for: of a pair the picture, else the row."""
        return self.picture.name if self.has_tasks else str(self.path)

    @property
    def text(self) -> str:
        """All of its text, a line for each part."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[AbstractBlob, ...]:
        """Its pictures in order, not yet read."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    @property
    def picture(self) -> AbstractBlob:
        """Its first picture.

        Raises:
          RefusedError: If it has none.
        """
        if not self.pictures:
            raise RefusedError(Reason.NO_PICTURE, "text alone, without a picture")
        return self.pictures[0]

    @property
    def is_pair(self) -> bool:
        """Whether it is one text and then one picture."""
        kinds = [isinstance(part, str) for part in self.parts]
        return kinds == [True, False]

    @property
    def has_tasks(self) -> bool:
        """Whether tasks can be made of it."""
        return self.is_pair or self.is_for_tasks

    @property
    def source(self) -> str:
        """Where it comes from; empty if unknown."""
        return self.column("source")

    @property
    def licence(self) -> str:
        """Its licence as the source spells it; empty if unknown."""
        return self.column(*_LICENCE_COLUMNS)

    @property
    def url(self) -> str:
        """The address that it was taken from; empty if unknown."""
        return self.column(*_URL_COLUMNS)

    @property
    def content_hash(self) -> str:
        """The hash of its picture's file that its source gives, "sha256:1f..."; or "".

        It is kept, not checked.
        """
        for name in _HASH_COLUMNS:
            value = self.columns.get(name)
            if isinstance(value, str) and _HASH.fullmatch(value):
                return value if ":" in value else f"{name}:{value}"
        return ""

    def column(self, *names: str) -> str:
        """The first of these columns that it has, which must be a string; or empty."""
        for name in names:
            value = self.columns.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise RefusedError(Reason.MALFORMED, f"column {name!r} is no string")
            return clean(value)
        return ""


Entry = tuple[str, Row | RefusedError]  # where it is, and what is there


def pair(text: str, picture: AbstractBlob, config: SourceConfig) -> tuple[Part, ...]:
    """The parts of a captioned picture.

    Raises:
      RefusedError: If the caption is refused (`clean`), or empty and such pictures
        are not kept.
    """
    text = clean(text)
    if text:
        return (text, picture)
    if not config.keep_uncaptioned:
        raise RefusedError(
            Reason.EMPTY_CAPTION, "the caption is empty; write one or delete the row"
        )
    return (picture,)


def document(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of a document: text cleaned, empty text left out, neighbours joined.

    Texts that follow each other become one, a line for each.

    Raises:
      RefusedError: If nothing is left, or a text is refused (`clean`).
    """
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str):
            part = clean(part)
            if not part:
                continue
            if joined and isinstance(joined[-1], str):
                joined[-1] = f"{joined[-1]}\n{part}"
                continue
        joined.append(part)
    if not joined:
        raise RefusedError(Reason.EMPTY_CAPTION, "neither text nor pictures")
    return tuple(joined)


def take_text(columns: dict[str, Any], names: Sequence[str] = TEXT_COLUMNS) -> str:
    """Takes the caption out of a row's columns; null is an empty caption.

    Raises:
      RefusedError: If there is no such column, or it is no string.
    """
    for name in names:
        if name in columns:
            value = columns.pop(name)
            if value is not None and not isinstance(value, str):
                raise RefusedError(Reason.MALFORMED, f"column `{name}` is no string")
            return value or ""
    raise RefusedError(
        Reason.MALFORMED, f"no column `{names[0]}`; add the caption under that name"
    )


def clean(text: str) -> str:
    """Returns a caption stripped.

    Raises:
      RefusedError: If it is too long, or holds NUL or half a surrogate pair.
    """
    if len(text) > MAX_CAPTION_CHARS:
        raise RefusedError(
            Reason.LONG_CAPTION, f"{len(text)} characters, at most {MAX_CAPTION_CHARS}"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # a JSON escape can spell half a pair
        raise RefusedError(Reason.NOT_UTF8, "it holds a lone surrogate") from error
    if "\0" in text:
        raise RefusedError(Reason.NOT_UTF8, "it holds NUL; remove it")
    return text.strip()


def decode(data: bytes) -> str:
    """Returns the text of UTF-8 bytes.

    Raises:
      RefusedError: If they are none.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(
            Reason.NOT_UTF8, "it is not UTF-8; save it as UTF-8"
        ) from error
