"""CLIP's own text pieces: byte-level BPE over lower-cased words.

The rule is CLIP's, the merging is done by the library `tokenizers`: text is composed
(Unicode NFC), runs of white space become one space, letters are lowered, words are cut
into runs of letters, single digits and runs of other signs, and merged from bytes, the
last of a word marked by `</w>`. Begin and end tokens that a text spells out are read as
those tokens, as CLIP's tokenizer does: such a text ends, for the tower, at the first.

Files: `vocab.json` and `merges.txt`, or `tokenizer.json`, from which the vocabulary and
the merges are taken; what else that file says is not used.

Source: Learning Transferable Visual Models From Natural Language Supervision,
arXiv:2103.00020, section 2.4; github.com/openai/CLIP (MIT).
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from cm3leon_jax import storage

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
VOCAB_FILE, MERGES_FILE, TOKENIZER_FILE = "vocab.json", "merges.txt", "tokenizer.json"
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipBpe:
    """Text to the ids of CLIP.

    Attributes:
      bos_id: Id that begins a text.
      eos_id: Id that ends it.
      vocab_size: Number of ids.
      digest: Of vocabulary and merges.
    """

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]]):
        """Makes the tokenizer.

        Args:
          vocab: Pieces to ids, `BEGIN` and `END` among them.
          merges: Pairs of pieces, the first merged first.

        Raises:
          ValueError: If the vocabulary lacks a mark, or a merge makes no piece of it.
        """
        missing = [mark for mark in (BEGIN, END) if mark not in vocab]
        if missing:
            raise ValueError(
                f"CLIP's vocabulary holds {' and '.join(missing)}; this one of"
                f" {len(vocab)} pieces does not: take the files of a CLIP checkpoint"
            )
        for pair in merges:
            unknown = [piece for piece in (*pair, "".join(pair)) if piece not in vocab]
            if unknown:
                raise ValueError(
                    f"the merge {pair!r} needs {unknown[0]!r}, which the vocabulary of"
                    f" {len(vocab)} pieces lacks; take both from one checkpoint"
                )
        # The end mark stands for unknown pieces too: CLIP's rule.
        model = models.BPE(
            vocab=vocab, merges=merges, unk_token=END, end_of_word_suffix="</w>"
        )
        self._tokenizer = tokenizers.Tokenizer(model)
        self._tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
                normalizers.Lowercase(),
            ]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    tokenizers.Regex(_WORDS), behavior="removed", invert=True
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._tokenizer.add_special_tokens([BEGIN, END])
        self.bos_id, self.eos_id = vocab[BEGIN], vocab[END]
        self.vocab_size = max(vocab.values()) + 1
        described = json.dumps(
            [sorted(vocab.items(), key=lambda item: item[1]), merges]
        )
        self.digest = storage.digest_bytes(described.encode())

    @classmethod
    def load(cls, folder: storage.Path) -> ClipBpe:
        """Reads the files of a CLIP checkpoint.

        Raises:
          FileNotFoundError: If there are none.
          ValueError: If they are damaged.
        """
        root = pathlib.Path(folder)
        if (root / VOCAB_FILE).exists() and (root / MERGES_FILE).exists():
            vocab = storage.read_json(root / VOCAB_FILE)
            lines = (root / MERGES_FILE).read_text(encoding="utf-8").split("\n")
            pairs = [line for line in lines if line and not line.startswith("#version")]
            return cls._checked(root / MERGES_FILE, vocab, pairs)
        if (root / TOKENIZER_FILE).exists():
            path = root / TOKENIZER_FILE
            described = storage.read_json(path)
            model = described.get("model") if isinstance(described, dict) else None
            if not isinstance(model, dict) or model.get("type") != "BPE":
                raise ValueError(f"{path} holds no BPE; take a CLIP checkpoint's")
            return cls._checked(path, model.get("vocab"), model.get("merges"))
        raise FileNotFoundError(
            f"{root} has neither {VOCAB_FILE} and {MERGES_FILE} nor {TOKENIZER_FILE};"
            " copy CLIP's tokenizer files beside its weights"
        )

    @classmethod
    def _checked(cls, path: pathlib.Path, vocab: Any, merges: Any) -> ClipBpe:
        """Makes a tokenizer of what a file held."""
        if not isinstance(vocab, dict) or not isinstance(merges, list):
            raise ValueError(f"{path} or its vocabulary is damaged; copy it again")
        pairs = []
        for merge in merges:
            pieces = merge.split(" ") if isinstance(merge, str) else list(merge)
            if len(pieces) != 2:
                raise ValueError(f"{path}: a merge is two pieces, got {merge!r}")
            pairs.append((str(pieces[0]), str(pieces[1])))
        return cls({str(piece): int(place) for piece, place in vocab.items()}, pairs)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, begin and end not included.

        Args:
          text: Any string; lone surrogates, which no file in UTF-8 holds, become `?`.
        """
        clean = text.encode("utf-8", "replace").decode()
        return self._tokenizer.encode(clean, add_special_tokens=False).ids
