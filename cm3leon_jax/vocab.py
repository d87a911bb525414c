"""The one space of ids that text, image codes and control marks share.

`Vocab` says which ids are which. It is a frozen value without arrays: shards and
checkpoints keep a copy, and whoever reads them compares digests.

    [0, text_size)                       text pieces; 0 <s>, 1 <pad>, 2 </s>, 3 <unk>
    [text_size, text_size + image_size)  image codes
    the next control_size ids            <break>, end of infill, sentinels, reserved

Chameleon's pictures have marks of their own (`use_image_marks`); behind the sentinels
stand the one that begins and the one that ends a picture:

    CM3Leon     </s> text <break> codes <break> text </s>
    Chameleon   <s> text <begin> codes <end> text </s>

Its files number the same ids in another order: `tokenizers.chameleon` has the map.

This module imports no JAX. The predicates work on NumPy and JAX arrays and on ints.

Source: CM3Leon, arXiv:2309.02591, section 2.1: 56,320 text pieces, 8,192 image codes,
1,024 codes a picture. Sixteen-bit ids (65,536 in all, the control ids within) are this
project's choice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any, ClassVar

_BREAK_OFFSET = 0
_END_OF_INFILL_OFFSET = 1
_SENTINEL_OFFSET = 2
_NUM_IMAGE_MARKS = 2  # behind the sentinels


@dataclasses.dataclass(frozen=True)
class Vocab:
    """Which ids are text, image codes and control marks.

    Attributes:
      text_size: Number of text pieces, the four special ones included.
      image_size: Number of codes in the image tokenizer's codebook.
      control_size: Number of control ids: <break>, end of infill, sentinels, reserved.
      num_sentinels: How many masked spans one sequence can name.
      codes_per_image: Codes of one picture, a square number (P).
      use_image_marks: Whether a mark begins and another ends every picture, and `<s>` a
        sequence, as in Chameleon; else `<break>` joins segments and `</s>` begins.

    Raises:
      ValueError: If the parts do not fit each other.
    """

    text_size: int = 56_320
    image_size: int = 8_192
    control_size: int = 1_024
    num_sentinels: int = 512
    codes_per_image: int = 1_024
    use_image_marks: bool = False

    BOS: ClassVar[int] = (
        0  # `<s>`; begins Chameleon's sequences, CM3Leon's never have it
    )
    PAD: ClassVar[int] = 1
    EOS: ClassVar[int] = 2  # `</s>`, between documents (metaseq's eod)
    UNK: ClassVar[int] = 3

    def __post_init__(self):
        if self.text_size <= self.UNK or self.image_size < 1 or self.num_sentinels < 1:
            raise ValueError(
                f"{self.text_size=} must exceed the four special ids, and"
                f" {self.image_size=} and {self.num_sentinels=} must be positive"
            )
        needed = _SENTINEL_OFFSET + self.num_sentinels
        needed += _NUM_IMAGE_MARKS * self.use_image_marks
        if self.control_size < needed:
            raise ValueError(
                f"{self.control_size=} must hold <break>, end of infill,"
                f" {self.num_sentinels} sentinels and the marks of pictures; use at"
                f" least {needed}"
            )
        if math.isqrt(self.codes_per_image) ** 2 != self.codes_per_image:
            raise ValueError(
                f"{self.codes_per_image=} must be a square number (a square grid of"
                f" codes); try {math.isqrt(self.codes_per_image) ** 2}"
            )

    @property
    def size(self) -> int:
        """Number of ids: the rows of the embedding table."""
        return self.text_size + self.image_size + self.control_size

    @property
    def grid_size(self) -> int:
        """Codes along one side of a picture."""
        return math.isqrt(self.codes_per_image)

    @property
    def image_start(self) -> int:
        """The id of image code 0."""
        return self.text_size

    @property
    def control_start(self) -> int:
        """The id of the first control mark."""
        return self.text_size + self.image_size

    @property
    def break_id(self) -> int:
        """`<break>`: between two segments, where the modality may change."""
        return self.control_start + _BREAK_OFFSET

    @property
    def end_of_infill_id(self) -> int:
        """Ends a span that was moved to the end (metaseq's `<eoss>`)."""
        return self.control_start + _END_OF_INFILL_OFFSET

    @property
    def begin_id(self) -> int:
        """Begins a sequence."""
        return self.BOS if self.use_image_marks else self.EOS

    @property
    def begin_image_id(self) -> int:
        """Begins a picture, with `use_image_marks`."""
        assert self.use_image_marks
        return self.control_start + _SENTINEL_OFFSET + self.num_sentinels

    @property
    def end_image_id(self) -> int:
        """Ends a picture, with `use_image_marks`."""
        return self.begin_image_id + 1

    def sentinel_id(self, index: int) -> int:
        """The id of the mark that stands for masked span number `index`.

        Raises:
          ValueError: If there are not that many sentinels.
        """
        if not 0 <= index < self.num_sentinels:
            raise ValueError(
                f"sentinel {index} must be in [0, {self.num_sentinels}); mask fewer"
                " spans, or raise vocab.num_sentinels"
            )
        return self.control_start + _SENTINEL_OFFSET + index

    def image_ids(self, codes: Any) -> Any:
        """Ids of image codes in [0, image_size); the inverse of `codes`."""
        return codes + self.image_start

    def codes(self, ids: Any) -> Any:
        """Image codes of ids for which `is_image` holds."""
        return ids - self.image_start

    def is_text(self, ids: Any) -> Any:
        """True where an id is a text piece (the special ones included)."""
        return (ids >= 0) & (ids < self.text_size)

    def is_image(self, ids: Any) -> Any:
        """True where an id is an image code."""
        return (ids >= self.image_start) & (ids < self.control_start)

    def is_sentinel(self, ids: Any) -> Any:
        """True where an id marks a masked span."""
        start = self.control_start + _SENTINEL_OFFSET
        return (ids >= start) & (ids < start + self.num_sentinels)

    def is_boundary(self, ids: Any) -> Any:
        """True where an id stands between two segments, or at an end of a sequence."""
        found = (ids == self.break_id) | (ids == self.EOS)
        if self.use_image_marks:
            is_mark = (ids == self.begin_image_id) | (ids == self.end_image_id)
            found = found | is_mark | (ids == self.BOS)
        return found

    def to_json(self) -> dict[str, int]:
        """The fields as JSON values; `from_json` reads them back."""
        fields = dataclasses.asdict(self)
        if not self.use_image_marks:
            del fields["use_image_marks"]  # what was written before there was a choice
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Vocab:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: If a field is missing, unknown or no integer.
        """
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        if kinds.keys() != fields.keys() | {"use_image_marks"}:
            raise ValueError(
                f"a vocabulary has the fields {sorted(kinds)}, got {sorted(fields)};"
                " was it written by another version?"
            )
        for name, value in fields.items():
            if type(value) is not kinds[name]:
                raise ValueError(
                    f"vocab.{name} must be of type {kinds[name].__name__}, got {value!r}"
                )
        return cls(**fields)

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the fields: equal means the same ids."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
