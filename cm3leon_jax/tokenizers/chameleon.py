"""Chameleon's vocabulary: its `tokenizer.json`, and its ids in the order of ours.

One file names all ids: text pieces, image codes, marks and reserved ids. Image codes are
spread over the ids in no order; a code's digits stand in its name as letters:

    IMGIMGAZ          code 0            IMGIMGBCDZ   code 123
    IMGIMGIBJBZ       code 8191

Here ids lie as `Vocab` has them, so that a modality is one range. `theirs_V` says which
of their ids each of ours is; weights change places by it (`convert`), and nothing else
knows their order:

    ours                          theirs, by name
    0 to 3                        <s>, <pad>, </s>, <unk>
    text, from 4                  all pieces in their order, then what no text makes
    image codes                   IMGIMG...Z in the order of the codes
    <break>, between two texts    <reserved08706>, which ends a turn there
    end of infill                 <reserved08708>
    sentinels                     <reserved08194> and what follows it, at most 512
    begins, ends a picture        <racm3:break>, <eoss>

Source: the names, github.com/facebookresearch/metaseq (MIT) and `transformers`
ChameleonImageVocabularyMapping; which reserved ids CM3's marks take is our choice.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from cm3leon_jax import storage
from cm3leon_jax.tokenizers import unicode
from cm3leon_jax.vocab import Vocab

FILE_NAME = "tokenizer.json"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3 of `Vocab`
BREAK, END_OF_INFILL = "<reserved08706>", "<reserved08708>"
BEGIN_IMAGE, END_IMAGE = "<racm3:break>", "<eoss>"
PLACEHOLDERS = ("<image>", "<reserved08707>")  # of a picture in the text of the port
FIRST_SENTINEL, MAX_SENTINELS = 8_194, 512
_CODE = re.compile(r"IMGIMG([A-J]+)Z")
_RESERVED = re.compile(r"<reserved\d+>|<image>")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


def sentinel(index: int) -> str:
    """The name of the id that sentinel number `index` takes."""
    return f"<reserved{FIRST_SENTINEL + index:05d}>"


def codes(ids: Mapping[str, int]) -> np.ndarray:
    """Returns int32[image_size]: the id of every image code.

        names  IMGIMGBZ 7, IMGIMGAZ 9, IMGIMGCZ 8
        ids    [9 7 8]

    Args:
      ids: Name to id of a whole vocabulary.

    Raises:
      ValueError: If there are no codes, or one is missing or there twice.
    """
    found = {}
    for name, number in ids.items():
        match = _CODE.fullmatch(name)
        if match:
            code = int(match[1].translate(_DIGITS))
            if code in found:
                raise ValueError(f"{name!r} names image code {code} again; restore it")
            found[code] = number
    missing = sorted(set(range(len(found))) - found.keys())
    if missing or not found:
        raise ValueError(
            f"of {len(found)} image codes, named as 'IMGIMGBCDZ' for 123, those of"
            f" {missing[:4]} are missing; it is no whole vocabulary of Chameleon"
        )
    return np.array([found[code] for code in range(len(found))], np.int32)


class ChameleonTokenizer:
    """Encodes strings to our text ids and back, by a Chameleon's `tokenizer.json`.

    Text never becomes a mark or an image code: what spells one's name is encoded as the
    plain characters it consists of.

    Attributes:
      data: Content of the file.
      digest: SHA-256 of the file, kept with everything made from its ids.
      ids: Name to id of all their ids.
      vocab_size: Number of ids that text is made of, the four special ones included.
      placeholder: Their id that stands for a picture in the port's texts.
      num_sentinels: How many reserved ids there are for sentinels.
    """

    def __init__(self, data: bytes):
        """Reads the content of a `tokenizer.json`.

        Raises:
          ValueError: If it is no such file, or lacks marks or image codes.
        """
        self.data = data
        self.digest: str = storage.digest_bytes(data)
        record = _parse(data)
        pieces: dict[str, int] = record["model"]["vocab"]
        added = {one["content"]: one["id"] for one in record["added_tokens"]}
        self.ids: dict[str, int] = pieces | added
        self._codes = codes(self.ids)
        marks = [*SPECIAL, BREAK, END_OF_INFILL, BEGIN_IMAGE, END_IMAGE]
        missing = [name for name in [*marks, sentinel(0)] if name not in self.ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {missing}; it is no Chameleon's")
        self.placeholder = next(
            (self.ids[name] for name in PLACEHOLDERS if name in self.ids), -1
        )
        names = (sentinel(index) for index in range(MAX_SENTINELS))
        self._sentinels = [self.ids[name] for name in names if name in self.ids]
        self.num_sentinels = len(self._sentinels)
        self._pieces = sorted(
            number for name, number in pieces.items() if _is_piece(name, marks)
        )
        self.vocab_size: int = len(SPECIAL) + len(self._pieces)
        # Without added tokens and what they are wrapped in, no text makes a mark.
        plain = record | {"added_tokens": [], "post_processor": None}
        self._encoder = tokenizers.Tokenizer.from_str(json.dumps(plain))

    @classmethod
    def load(cls, path: storage.Path) -> ChameleonTokenizer:
        """Returns the tokenizer in a file, or in a folder that has it.

        Raises:
          FileNotFoundError: If there is no such file.
          ValueError: If it is not a usable one, see `__init__`.
        """
        path = storage.place(path)
        if path.is_dir():
            path /= FILE_NAME
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @property
    def size(self) -> int:
        """Number of their ids: the rows of a model's tables."""
        return 1 + max(self.ids.values())

    def vocab(self, codebook_size: int, codes_per_image: int) -> Vocab:
        """Returns the joint vocabulary.

        Args:
          codebook_size: Codes of the image tokenizer.
          codes_per_image: Codes of one picture.

        Raises:
          ValueError: If the file names another number of codes.
        """
        if codebook_size != len(self._codes):
            raise ValueError(
                f"the vocabulary names {len(self._codes)} image codes, the image"
                f" tokenizer has {codebook_size}; they do not belong together"
            )
        control_size = len((BREAK, END_OF_INFILL, BEGIN_IMAGE, END_IMAGE))
        control_size += self.num_sentinels
        return Vocab(
            text_size=self.size - codebook_size - control_size,
            image_size=codebook_size,
            control_size=control_size,
            num_sentinels=self.num_sentinels,
            codes_per_image=codes_per_image,
            use_image_marks=True,
        )

    @property
    def theirs_V(self) -> np.ndarray:
        """Which of their ids each of ours is, int32[V]."""
        special, ends, image = (
            [self.ids[name] for name in names]
            for names in (SPECIAL, (BREAK, END_OF_INFILL), (BEGIN_IMAGE, END_IMAGE))
        )
        back = [*self._codes.tolist(), *ends, *self._sentinels, *image]
        front = [*special, *self._pieces]
        others = sorted(set(range(self.size)).difference(front, back))
        return np.array([*front, *others, *back], np.int32)

    def encode(self, text: str) -> list[int]:
        """Returns our ids of `text`; `<unk>` only where the file has no byte pieces.

        Raises:
          ValueError: If `text` holds a lone surrogate, which no UTF-8 can carry.
        """
        unicode.check(text)
        found = self._encoder.encode(text, add_special_tokens=False).ids
        return [self._ours[one] for one in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of our ids; the special ones, 0 to 3, give nothing.

        Raises:
          ValueError: If an id is outside [0, vocab_size).
        """
        kept = [int(one) - len(SPECIAL) for one in ids if not 0 <= int(one) < 4]
        if kept and not 0 <= min(kept) <= max(kept) < len(self._pieces):
            raise ValueError(
                f"text ids must lie in [0, {self.vocab_size}), got {min(ids)} to"
                f" {max(ids)}; take the text segments out of a sequence first"
            )
        theirs = [self._pieces[one] for one in kept]
        return self._encoder.decode(theirs, skip_special_tokens=False)

    @functools.cached_property
    def _ours(self) -> dict[int, int]:
        """Our id of each of their text ids."""
        special = [self.ids[name] for name in SPECIAL]
        return {one: at for at, one in enumerate([*special, *self._pieces])}


def _parse(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
        kind, pieces = record["model"]["type"], record["model"]["vocab"]
        numbers = [*pieces.values(), *(one["id"] for one in record["added_tokens"])]
        names = [one["content"] for one in record["added_tokens"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no fast tokenizer file ({len(data)} bytes)") from error
    if kind != "BPE" or record["model"].get("ignore_merges"):
        raise ValueError(f"a tokenizer of type {kind!r}, not BPE with merges")
    if not all(type(one) is int and one >= 0 for one in numbers):
        raise ValueError("the vocabulary has ids that are no numbers")
    whole = pieces | dict(zip(names, numbers[len(pieces) :], strict=True))
    if len(set(whole.values())) != len(whole):
        raise ValueError("the vocabulary has two names for one id")
    return record


def _is_piece(name: str, marks: Sequence[str]) -> bool:
    """Whether text may be made of an id of this name."""
    return not (name in marks or _CODE.fullmatch(name) or _RESERVED.fullmatch(name))
