"""What lies in a folder: the one interface to all formats.

`find` says by which reader a folder is read, and the inputs (files, splits) that it
consists of; `rows` reads one of them. A format is a module:

    TITLE                       what it is, for people
    find(root)                  names of its inputs; empty if the folder is none
    entries(root, name, config) places and rows, or why one is refused; no picture read

Inputs named after splits (`train-00000.parquet`, `captions_val2017.json`) belong to
them, if all are; any other split is by a hash (`data/splits.py`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from cm3leon_jax.data.refusals import Reason, Refusals, RefusedError
from cm3leon_jax.data.sources import (
    coco,
    controlnet,
    flickr30k,
    folder,
    imagefolder,
    instructpix2pix,
    jsonl,
    karpathy,
    narratives,
    objects,
    openimages,
    paragraphs,
    parquet,
    prepared,
    scienceqa,
    tar,
    textocr,
    vizwiz,
    vqa,
)
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

AUTO = "auto"
TRAIN, VALIDATION, TEST, BANK = "train", "validation", "test", "bank"


class AbstractFormat(Protocol):
    """A module that reads one format."""

    @property
    def TITLE(self) -> str:
        """What it is, for people."""
        ...

    def find(self, root: pathlib.Path) -> list[str]:
        """Names of the inputs in a folder; empty if it is of another format."""
        ...

    def entries(
        self, root: pathlib.Path, name: str, config: SourceConfig
    ) -> Iterator[Entry]:
        """Yields the rows of an input, or why one is refused."""
        ...


# In the order in which a folder is tried: the telling ones first.
FORMATS: dict[str, AbstractFormat] = {
    "tfds": prepared,
    "imagefolder": imagefolder,
    "coco": coco,
    "objects": objects,
    "vqa": vqa,
    "vizwiz": vizwiz,
    "scienceqa": scienceqa,
    "karpathy": karpathy,
    "flickr30k": flickr30k,
    "paragraphs": paragraphs,
    "narratives": narratives,
    "instructpix2pix": instructpix2pix,
    "controlnet": controlnet,
    "openimages": openimages,
    "textocr": textocr,
    "tar": tar,
    "parquet": parquet,
    "jsonl": jsonl,
    "folder": folder,
}
_SPLIT_NAMES = {
    "train": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "bank": BANK,
}
# What stands before the split in the names of public data sets.
_PREFIXES = (
    "captions_",
    "instances_",
    "zhiyuan_objv2_",
    "(?:v2_)?OpenEnded_mscoco_",
    "(?:coco|flickr30k|ade20k|open_images)_",
    "TextOCR_[0-9.]+_",
    "oidv6-",
)
_SPLIT_PATTERN = re.compile(
    rf"(?:{'|'.join(_PREFIXES)})?({'|'.join(_SPLIT_NAMES)})(?![a-z])"
)


@dataclasses.dataclass(frozen=True)
class Input:
    """A part of a folder that is read by itself: a file, a split, or all of it.

    Attributes:
      root: The folder.
      format: A name of `FORMATS`.
      name: Of the part, within the folder.
      split: The split that all its rows belong to; empty: by their hash.
    """

    root: pathlib.Path
    format: str
    name: str
    split: str = ""


def find(root: str | pathlib.Path, config: SourceConfig) -> list[Input]:
    """Returns the inputs of a folder, in the order in which they are read.

    Raises:
      FileNotFoundError: If there is no such folder.
      ValueError: If the reader is unknown, or finds nothing.
    """
    root = pathlib.Path(root)
    if config.reader not in (AUTO, *FORMATS):
        known = ", ".join((AUTO, *FORMATS))
        raise ValueError(f"no reader {config.reader!r}; known: {known}")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give one with captioned pictures")
    tried = FORMATS if config.reader == AUTO else [config.reader]
    for name in tried:
        if found := FORMATS[name].find(root):
            splits = _splits(found)
            return [
                Input(root, name, one, split)
                for one, split in zip(found, splits, strict=True)
            ]
    titles = "; ".join(FORMATS[name].TITLE for name in tried)
    raise ValueError(
        f"{root} holds no captioned pictures; it needs one of: {titles} (imagefolder:"
        f" {imagefolder.METADATA} with file_name and text on every line)"
    )


def describe(inputs: Sequence[Input]) -> str:
    """One line: by which reader a folder is read, and of how many parts."""
    first = inputs[0]
    title = FORMATS[first.format].TITLE
    splits = sorted({one.split for one in inputs} - {""})
    by = f", splits by name: {', '.join(splits)}" if splits else ""
    parts = f", {len(inputs)} inputs" if len(inputs) > 1 else ""
    return f"{title} (reader={first.format}){parts}{by}"


def rows(
    one: Input, config: SourceConfig, refusals: Refusals, *, strict: bool = False
) -> Iterator[Row]:
    """Reads the rows of an input in order, without opening a picture.

    Args:
      one: What `find` returned.
      config: What is taken.
      refusals: Where refused rows are counted; accepted ones are counted by whoever
        uses them, since their pictures may yet be refused.
      strict: Raise at the first bad row, naming file, line and remedy, instead of
        counting it.

    Raises:
      ValueError: If the input is no such thing at all; if `strict`, for every bad row.
    """
    licences = {name.strip().casefold() for name in config.licences}
    for place, entry in FORMATS[one.format].entries(one.root, one.name, config):
        try:
            if isinstance(entry, RefusedError):
                raise entry
            yield _checked(entry, config, licences)
        except RefusedError as error:
            if strict:
                raise ValueError(f"{place}: {error}") from error
            refusals.refuse(place, error)


def _checked(row: Row, config: SourceConfig, licences: set[str]) -> Row:
    """The row with its source, if it has a proper id and an allowed licence."""
    try:
        row.id.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(Reason.NOT_UTF8, "its name is not UTF-8") from error
    if licences and row.licence.casefold() not in licences:
        raise RefusedError(
            Reason.LICENCE, f"{row.licence[:80]!r} is not on the list of licences"
        )
    if config.source and not row.source:
        columns = {**row.columns, "source": config.source}
        return dataclasses.replace(row, columns=columns)
    return row


def split_of(name: str) -> str:
    """The split that an input's name begins with; empty if it begins with none."""
    match = _SPLIT_PATTERN.match(pathlib.PurePosixPath(name).name)
    return _SPLIT_NAMES[match[1]] if match else ""


def _splits(names: list[str]) -> list[str]:
    """The split that each name begins with, if all do; else none."""
    splits = [split_of(name) for name in names]
    return splits if all(splits) and TRAIN in splits else [""] * len(names)
