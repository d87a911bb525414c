"""What pyright knows of `tf.train.Example`, whose class protobuf makes when imported."""

from typing import Any

class Example:
    features: Any
    @classmethod
    def FromString(cls, data: bytes) -> Example: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
