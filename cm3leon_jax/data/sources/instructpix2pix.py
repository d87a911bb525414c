"""InstructPix2Pix: folders of a prompt and pairs of pictures, before and after.

    seeds.json                     [["0000000", ["4113182634", "1037946331"]], ...]
    0000000/prompt.json            {"input": "...", "edit": "make it winter",
                                   "output": "..."}
    0000000/4113182634_0.jpg       before   4113182634_1.jpg   after

A pair is a row: the picture before, captioned by `input`, with the edit. `output`
describes the picture after and is a column.

Source: https://github.com/timothybrooks/instruct-pix2pix (clip-filtered-dataset).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob, folder, json_file, lines
from cm3leon_jax.data.sources import row as rows
from cm3leon_jax.data.sources.row import Entry, Row, SourceConfig

TITLE = "InstructPix2Pix"
_FILE = "seeds.json"
_PROMPT = "prompt.json"
_NEEDS = "a JSON list of [folder, [seed, ...]]"


def find(root: pathlib.Path) -> list[str]:
    """The list of seeds, if there is one."""
    return [_FILE] if (root / _FILE).is_file() else []


def entries(root: pathlib.Path, name: str, config: SourceConfig) -> Iterator[Entry]:
    """Yields a row a pair, in the list's order.

    Raises:
      ValueError: If the list is of another shape.
    """
    content = json_file.read(root / name, _NEEDS)
    try:
        listed = [(str(prompt), [str(x) for x in seeds]) for prompt, seeds in content]
    except (TypeError, ValueError) as error:
        raise json_file.wrong(root / name, _NEEDS, error) from error
    resolved = root.resolve()
    for prompt, seeds in listed:
        place = f"{root / prompt / _PROMPT}"
        try:
            path = folder.check_inside(resolved, f"{prompt}/{_PROMPT}")
            told = lines.parse(blob.File(path).read(lines.MAX_BYTES))
            text = rows.take_text(told, ("input", "caption"))
            instruction = rows.take_text(told, ("edit",)).strip()
            if not instruction:
                raise RefusedError(Reason.EMPTY_QUESTION, "the edit is empty")
        except RefusedError as error:
            yield place, error
            continue
        for seed in seeds:
            yield _entry(root, f"{prompt}/{seed}", text, instruction, told, config)


def _entry(
    root: pathlib.Path,
    stem: str,
    text: str,
    instruction: str,
    told: dict,
    config: SourceConfig,
) -> Entry:
    place = f"{root / stem}"
    try:
        before, after = (f"{stem}_{side}.jpg" for side in (0, 1))
        path = folder.check_inside(root.resolve(), before)
        parts = rows.pair(text, blob.File(path), config)
        edit = {"instruction": instruction, "file_name": after}
        columns = {"edit": edit, "text_after": str(told.get("output") or "")}
        group = stem.partition("/")[0]
        return place, Row(before, root, parts, columns, group)
    except RefusedError as error:
        return place, error
