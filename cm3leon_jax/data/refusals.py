"""What is not taken from people's data, and why: reason codes, one line each, counted.

A refusal is never silent: accepted + refused = total, printed at the end of a job and
kept beside its output as `refusals.json`.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import Any


class Reason(enum.StrEnum):
    """Why something was refused; the values are written to disk."""

    UNREADABLE = "unreadable"  # no picture, or a damaged one
    TOO_MANY_BYTES = "too-many-bytes"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_SMALL = "too-small"
    TOO_ELONGATED = "too-elongated"
    MODE = "mode"  # a pixel format without a rule
    MISSING = "missing"
    OUTSIDE = "outside-folder"  # a path that leaves its folder or archive
    NOT_A_FILE = "not-a-file"  # a link, a device, a sparse file
    DUPLICATE = "duplicate"  # a name that was there before
    REMOTE = "remote"  # a URL: pictures are read from disk alone, nothing is fetched
    NO_PICTURE = "no-picture"  # text alone, where a picture is needed
    LICENCE = "licence"  # not on the allow-list
    EMPTY_CAPTION = "empty-caption"
    LONG_CAPTION = "long-caption"
    EMPTY_QUESTION = "empty-question"
    NO_ANSWER = "no-answer"  # a question of which the answers' file knows nothing
    NO_BOX = "no-box"  # none of a picture's boxes can be used
    NOT_UTF8 = "not-utf8"
    MALFORMED = "malformed"  # a row that is no JSON object, a column of another type
    CONTROL_ID = "control-id"  # a text tokenizer that parses control tokens
    TOO_LONG = "too-long"  # a document that no training row holds


class RefusedError(ValueError):
    """One thing is refused; the rest goes on.

    Attributes:
      reason: The code.
      detail: What was found and what to do, in a few words.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass
class Refusals:
    """Counts what was accepted and keeps a line for what was not.

    Attributes:
      accepted: How many were taken.
      lines: `name: reason: detail` of the first `max_lines` refused.
      max_lines: Lines kept; all are counted.
    """

    accepted: int = 0
    lines: list[str] = dataclasses.field(default_factory=list)
    max_lines: int = 1000
    _by_reason: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )

    def refuse(self, name: str, error: RefusedError) -> None:
        """Counts a refusal."""
        self._by_reason[str(error.reason)] += 1
        if len(self.lines) < self.max_lines:
            # A file's name need not be Unicode, a line of `refusals.json` must.
            line = f"{name}: {error}".encode("utf-8", "replace").decode()
            self.lines.append(line)

    def add(self, counted: dict[str, Any]) -> None:
        """Adds what another `to_json` says."""
        self.accepted += counted["accepted"]
        self._by_reason.update(counted["by_reason"])
        self.lines += counted["lines"][: self.max_lines - len(self.lines)]

    @property
    def refused(self) -> int:
        """How many were not taken."""
        return sum(self._by_reason.values())

    @property
    def total(self) -> int:
        """All that was looked at."""
        return self.accepted + self.refused

    def to_json(self) -> dict[str, Any]:
        """Counts and lines, for `refusals.json`."""
        return {
            "accepted": self.accepted,
            "refused": self.refused,
            "total": self.total,
            "by_reason": dict(sorted(self._by_reason.items())),
            "lines": list(self.lines),
        }

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {why}" for why, n in self._by_reason.most_common())
        tail = f" ({reasons})" if reasons else ""
        return f"{self.accepted} accepted + {self.refused} refused{tail} = {self.total}"
