"""Trains the text tokenizer on the text of a folder's training split.

text.model    the SentencePiece model
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from cm3leon_jax.data import splits
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.jobs import folder
from cm3leon_jax.tasks import templates
from cm3leon_jax.tokenizers import text


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains on the columns that the config names.

    Raises:
      FileNotFoundError: If there is no such folder.
      ValueError: If it holds no text, or the vocabulary is too small.
    """
    if not folder.start(config, workdir):
        return
    refusals = Refusals()
    split = splits.SplitConfig(**config.splits)
    texts, num_rows = [], 0
    for row in splits.read(config.pictures.folder, splits.TRAIN, split, refusals):
        record = {"text": row.text, **row.columns}
        texts += [line for name in config.columns for line in strings(record, name)]
        num_rows += 1
    # The words of the templates, often enough to become pieces of their own.
    copies = int(config.template_share * num_rows)
    texts += templates.texts(config.template_tasks) * copies
    path = pathlib.Path(workdir) / text.FILE_NAME
    tokenizer = text.train(texts, config.vocab_size, path)
    num_pieces = len(tokenizer.encode("\n".join(texts)))
    num_characters = sum(map(len, texts))
    print(
        f"{tokenizer.vocab_size} pieces from {len(texts)} texts of {num_rows} rows;"
        f" {num_characters / num_pieces:.2f} characters a piece"
    )
    folder.finish(
        workdir,
        {
            "vocab_size": tokenizer.vocab_size,
            "digest": tokenizer.digest,
            "texts": len(texts),
            "characters_per_piece": num_characters / num_pieces,
        },
    )


def strings(record: Any, name: str) -> Iterator[str]:
    """Yields the strings under a dotted name; lists give those of every item.

    Columns that a row lacks give nothing.
    """
    yield from _under(record, name.split(".") if name else [])


def _under(value: Any, path: Sequence[str]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _under(item, path)
    elif path and isinstance(value, dict) and path[0] in value:
        yield from _under(value[path[0]], path[1:])
    elif not path and isinstance(value, str):
        yield value
