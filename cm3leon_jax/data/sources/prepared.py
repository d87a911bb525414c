"""Any TFDS data set that is prepared on disk, read without TensorFlow.

    coco_captions/2014/1.1.0/   dataset_info.json features.json *.array_record-*

It needs one feature with pictures, and text: a feature named as `row.TEXT_COLUMNS`, or
captions in a sequence (`captions/text`, or `source.text_column` itself), of which each is
a row. Pictures stay encoded and are decoded by this project's rule; further features with
pictures are left out. Whatever `as_data_source` reads is read: files of ArrayRecord, or of
Parquet (which TFDS holds in memory). Others are refused with the line that converts them.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "TFDS data set"
_RANDOM_ACCESS = ("array_record", "parquet")
_DAMAGED = (RuntimeError, ValueError, IndexError, KeyError, OSError)


def find(root: pathlib.Path) -> list[str]:
    """The splits of the data set, if it is one."""
    if not (root / "dataset_info.json").is_file():
        return []
    return list(_builder(root).info.splits)


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields the rows of one split; ids are the split and the number.

    Raises:
      ValueError: If it has no pictures or no text, or no random access.
    """
    image = _image_feature(root, config)
    _check_text(root, config)
    source = _source(root, name)
    pictures = _pictures(root)
    for number in range(len(source)):
        place = f"{root} split {name}, example {number}"
        try:
            example = source[number]
        except _DAMAGED as error:
            yield place, RefusedError(Reason.UNREADABLE, str(error)[:120])
            continue
        columns = {
            key: _plain(value) for key, value in example.items() if key not in pictures
        }
        picture = Example(root, name, number, image)
        row_id = f"{name}:{number}"
        try:
            for index, text in enumerate(_texts(columns, config)):
                parts = rows.pair(text, picture, config)
                one = f"{row_id}#{index}" if index else row_id
                yield place, Row(one, root, parts, columns, group=row_id)
        except RefusedError as error:
            yield place, error


@dataclasses.dataclass(frozen=True)
class Example:
    """The picture of one example.

    Attributes:
      root: The data set's folder.
      split: The split.
      number: The example's place in it.
      feature: The feature with the picture.
    """

    root: pathlib.Path
    split: str
    number: int
    feature: str

    @property
    def name(self) -> str:
        """Folder, split and place."""
        return f"{self.root} split {self.split}, example {self.number}"

    def read(self, max_bytes: int) -> bytes:
        """Reads the encoded picture; see `blob.AbstractBlob`."""
        try:
            found = _source(self.root, self.split)[self.number]
            data = bytes(found[self.feature])
        except _DAMAGED as error:
            raise RefusedError(Reason.UNREADABLE, str(error)[:120]) from error
        blob.check_size(len(data), max_bytes)
        return data


@functools.lru_cache(8)
def _builder(root: pathlib.Path) -> Any:
    # Imported here: it takes seconds, and most folders are no TFDS data sets.
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(root))


@functools.lru_cache(8)
def _source(root: pathlib.Path, split: str) -> Any:
    import tensorflow_datasets as tfds

    info = _builder(root).info
    found = sorted(one.value for one in info.available_file_formats())
    if not set(found) & set(_RANDOM_ACCESS):
        raise ValueError(
            f"{root} holds files of {' and '.join(found) or 'an unknown format'}, which"
            f" cannot be read at random; convert it: tfds convert_format"
            f" --dataset_version_dir={root} --out_file_format=array_record --out_dir=..."
            " (needs TensorFlow), or prepare it again with --file_format=array_record"
        )
    decoders = dict.fromkeys(_pictures(root), tfds.decode.SkipDecoding())
    return _builder(root).as_data_source(split, decoders=decoders)


def _pictures(root: pathlib.Path) -> list[str]:
    """The features of a data set that are pictures."""
    import tensorflow_datasets as tfds

    return [
        name
        for name, feature in _builder(root).info.features.items()
        if isinstance(feature, tfds.features.Image)
    ]


def _image_feature(root: pathlib.Path, config: SourceConfig) -> str:
    found = _pictures(root)
    wanted = [config.image_column] if config.image_column else found
    if len(wanted) != 1 or wanted[0] not in found:
        raise ValueError(
            f"{root} has the picture features {found}, one is needed; name it with"
            " --config.source.image_column"
        )
    return wanted[0]


def _check_text(root: pathlib.Path, config: SourceConfig) -> None:
    """Refuses a data set without captions: every one of its rows would be."""
    features = _builder(root).info.features
    nested = [feature for feature in features.values() if hasattr(feature, "items")]
    known = {name for some in (features, *nested) for name, _ in some.items()}
    if not known & set(config.text_columns):
        raise ValueError(
            f"{root} has no feature {' or '.join(config.text_columns)}, only"
            f" {sorted(name for name, _ in features.items())}; name it with --config.source.text_column"
        )


def _texts(columns: dict[str, Any], config: SourceConfig) -> list[str]:
    """Takes the captions out of an example's columns: one, or those of a sequence."""
    nested = [column for column in columns.values() if isinstance(column, dict)]
    for column in (columns, *nested):
        for name in config.text_columns:
            found = column.get(name)
            if isinstance(found, list) and all(isinstance(one, str) for one in found):
                return column.pop(name) or [""]
    return [rows.take_text(columns, config.text_columns)]


def _plain(value: Any) -> Any:
    """Arrays as lists, bytes as text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "surrogateescape") if type(value) is bytes else value
