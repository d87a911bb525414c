"""Text pieces: a SentencePiece model that gives every string back unchanged.

The model is byte-pair encoding with identity normalisation, byte fallback, no
dummy prefix and no removal of spaces, because the model's PyTorch export must
tokenise exactly alike, and because a shard's captions must be readable again.
Text never becomes a control id: a caption that spells "</s>" or "<break>" is
encoded as the plain characters it consists of.

On disk: one SentencePiece `.model` file, ids 0 `<s>`, 1 `<pad>`, 2 `</s>`,
3 `<unk>`, 4 to 259 the bytes, then the learnt pieces. `load` also reads Chameleon's
`tokenizer.json` (`chameleon`).
"""

import io
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import sentencepiece
from etils import epath

from cm3leon_jax import storage
from cm3leon_jax.tokenizers import chameleon, unicode

FILE_NAME = "text.model"  # in the folder of a job

# SentencePiece writes a space inside its pieces as this character, so the
# character itself would come back as a space. It is encoded as its three bytes.
_SPACE_MARK = "\u2581"
_NUM_FIXED = 4 + 256  # control pieces and bytes
# Longest training text in bytes; SentencePiece would skip longer ones silently.
_MAX_TRAINING_BYTES = 1 << 20


class AbstractTextTokenizer(Protocol):
    """Strings to ids of text and back.

    Attributes:
      vocab_size: Number of ids, the four special ones included.
      digest: SHA-256 of the file.
    """

    vocab_size: int
    digest: str

    def encode(self, text: str) -> list[int]:
        """Returns ids in [0, vocab_size)."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids."""
        ...


def find(path: storage.Path) -> epath.Path:
    """Returns the tokenizer's file: the one given, or the one in a folder."""
    path = storage.place(path)
    if not path.is_dir():
        return path
    is_other = (path / chameleon.FILE_NAME).exists() and not (path / FILE_NAME).exists()
    return path / (chameleon.FILE_NAME if is_other else FILE_NAME)


def load(path: storage.Path) -> AbstractTextTokenizer:
    """Returns the tokenizer in a file or a folder, of either kind.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not usable.
    """
    path = find(path)
    if path.suffix == ".json":
        return chameleon.ChameleonTokenizer.load(path)
    return TextTokenizer.load(path)


class TextTokenizer:
    """Encodes strings to piece ids and back, without loss.

    Attributes:
      vocab_size: number of ids, control and byte pieces included.
      digest: sha256 of the model file, kept with everything made from its ids.
    """

    def __init__(self, data: bytes):
        """Reads a serialised model.

        Args:
          data: contents of a SentencePiece `.model` file that `train` made, or
            one with the same settings.

        Raises:
          ValueError: if `data` is no SentencePiece model, or its control pieces
            are not `<s>`, `<pad>`, `</s>`, `<unk>` at 0 to 3, or it lacks bytes.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise ValueError(
                f"not a SentencePiece model ({len(data)} bytes); train one with"
                " configs/tokenizer.py"
            ) from error
        self.vocab_size: int = self._processor.vocab_size()
        self.digest: str = storage.digest_bytes(data)
        self._check_pieces()
        self._space_mark_ids = [
            self._processor.PieceToId(f"<0x{byte:02X}>")
            for byte in _SPACE_MARK.encode("utf-8")
        ]

    @classmethod
    def load(cls, path: storage.Path) -> "TextTokenizer":
        """Returns the tokenizer in a `.model` file, or in a job's folder.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it is not a usable model, see `__init__`.
        """
        path = storage.place(path)
        if path.is_dir():
            path = path / FILE_NAME
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Returns the piece ids of `text`; never a control id, never `<unk>`.

        Raises:
          ValueError: if `text` holds a lone surrogate, which no UTF-8 can carry.
        """
        unicode.check(text)
        ids: list[int] = []
        for number, part in enumerate(text.split(_SPACE_MARK)):
            if number:
                ids += self._space_mark_ids
            ids += self._processor.EncodeAsIds(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`.

        Control ids 0 to 3 give nothing. Bytes that form no UTF-8, as a model
        may sample them, give U+FFFD.

        Raises:
          ValueError: if an id is outside [0, vocab_size).
        """
        kept = [int(one) for one in ids if not 0 <= int(one) < 4]
        if kept and not 0 <= min(kept) <= max(kept) < self.vocab_size:
            raise ValueError(
                f"text ids must lie in [0, {self.vocab_size}), got {min(kept)} to"
                f" {max(kept)}; take the text segments out of a sequence first"
            )
        return self._processor.DecodeIds(kept)

    def _check_pieces(self) -> None:
        pieces = [self._processor.IdToPiece(i) for i in range(min(4, self.vocab_size))]
        if pieces != ["<s>", "<pad>", "</s>", "<unk>"]:
            raise ValueError(
                f"first pieces are {pieces}, expected <s>, <pad>, </s>, <unk>; train"
                " the model with configs/tokenizer.py"
            )
        if self._processor.PieceToId("<0x00>") == self._processor.unk_id():
            raise ValueError(
                "the model has no byte pieces, so it would lose unknown characters;"
                " train it with configs/tokenizer.py"
            )


def train(texts: Iterable[str], vocab_size: int, path: storage.Path) -> TextTokenizer:
    """Learns byte-pair pieces from `texts` and writes the model to `path`.

    A text too small for `vocab_size` gets fewer pieces; a line in the log says
    how many. Digits stay single pieces, so that numbers are spelt alike
    wherever they occur. The result depends on the texts and their order alone.

    Args:
      texts: what the pieces are learnt from; empty strings are ignored.
      vocab_size: wanted number of ids, at least the 260 fixed ones and one more.
      path: the `.model` file to write.

    Raises:
      ValueError: if `vocab_size` is too small or `texts` holds no characters.
    """
    if vocab_size <= _NUM_FIXED:
        raise ValueError(
            f"{vocab_size=} must be above {_NUM_FIXED} (4 control pieces, 256 bytes)"
        )
    lines = [line for text in texts for line in _training_lines(text)]
    if not lines:
        raise ValueError("no text to train a tokenizer on; every caption is empty")
    try:
        data = _fit(lines, vocab_size)
    except RuntimeError as error:
        data = _fit(lines, _affordable_size(str(error), vocab_size))
    tokenizer = TextTokenizer(data)
    if tokenizer.vocab_size < vocab_size:
        logging.getLogger(__name__).warning(
            "text too small for vocab_size=%d; the tokenizer has %d pieces",
            vocab_size,
            tokenizer.vocab_size,
        )
    storage.write_bytes(path, data)
    return tokenizer


def _training_lines(text: str) -> list[str]:
    """Splits at what SentencePiece cannot learn from: line ends, NUL, its own mark."""
    parts = re.split(f"[\n\r\0{_SPACE_MARK}]", text)
    return [part for part in parts if part.strip()]


def _fit(lines: list[str], vocab_size: int) -> bytes:
    """Returns the serialised model; RuntimeError if `lines` can't fill the size."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        split_digits=True,
        # The rarest characters, one in 100,000, go to bytes rather than take pieces.
        character_coverage=0.99999,
        max_sentence_length=_MAX_TRAINING_BYTES,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def _affordable_size(message: str, vocab_size: int) -> int:
    """Reads from SentencePiece's error how many pieces the text allows."""
    too_high = re.search(r"value <= (\d+)", message)
    if too_high:
        return int(too_high.group(1))
    too_low = re.search(r"required_chars\. \d+ vs (\d+)", message)
    needed = too_low.group(1) if too_low else "more"
    raise ValueError(
        f"{vocab_size=} cannot hold the characters of the text ({needed} needed);"
        f" raise it. SentencePiece said: {message}"
    )
