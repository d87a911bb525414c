"""How near written captions are to people's: CIDEr-D, BLEU and ROUGE-L.

All three take token strings, words with a space between, and give the numbers of
pycocoevalcap's scorers of pure Python on the same tokens. `tokens` stands in for its
tokenizer, which is Stanford's in Java: lower case, punctuation left out.

Source: CIDEr, Vedantam et al., arXiv:1411.5726; BLEU, Papineni et al., 2002; ROUGE-L, Lin,
2004; github.com/salaniz/pycocoevalcap for what they leave open.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence

import numpy as np

MAX_ORDER = 4  # of n-grams
_CIDER_SIGMA = 6.0  # of the penalty on lengths, in words
_CIDER_SCALE = 10.0
_ROUGE_BETA = 1.2  # recall counts more than precision
_TINY, _SMALL = 1e-15, 1e-9  # of BLEU, so that nothing is divided by nothing
# Words with their apostrophes and hyphens; a clitic (`'s`, `n't`) is a word of its own.
_WORD = re.compile(r"\w+(?:[-.]\w+)*|'\w+")
_CLITIC = re.compile(r"(?<=\w)(n't|'s|'re|'ve|'ll|'d|'m)\b")

Counts = collections.Counter


def evaluate(
    references: Sequence[Sequence[str]], written: Sequence[str]
) -> dict[str, float]:
    """Returns `cider_d`, `bleu_1` to `bleu_4`, `rouge_l` of raw captions.

    Args:
      references: Of every picture, people's captions.
      written: Of every picture the model's caption.

    Raises:
      ValueError: If a picture has no reference, or the numbers differ.
    """
    if len(references) != len(written) or not all(references) or not written:
        raise ValueError(
            f"{len(written)} captions of {len(references)} pictures; every picture needs"
            " one caption and at least one reference"
        )
    people = [[tokens(one) for one in some] for some in references]
    ours = [tokens(one) for one in written]
    return {
        "cider_d": float(np.mean(cider_d(people, ours))),
        **{f"bleu_{n}": value for n, value in enumerate(bleu(people, ours), 1)},
        "rouge_l": float(np.mean(rouge_l(people, ours))),
    }


def tokens(text: str) -> str:
    """Returns lower-case words without punctuation, a space between.

    "A man's dog -- it isn't black."    "a man 's dog it is n't black"
    """
    split = _CLITIC.sub(r" \1", text.lower())
    found = []
    for piece in split.split():
        found += [piece] if piece == "n't" else _WORD.findall(piece.strip('.,;:!?"()'))
    return " ".join(found)


def cider_d(references: Sequence[Sequence[str]], written: Sequence[str]) -> np.ndarray:
    """Returns CIDEr-D of every caption; their mean is the number that papers give.

    Args:
      references: Of every picture, token strings. Their n-grams are weighed by how many
        pictures they occur in: the number depends on all pictures together.
      written: A token string a picture.

    Returns:
      float64[N], 10 times a mean of cosines.
    """
    people = [[_ngrams(one) for one in some] for some in references]
    seen = Counts(gram for some in people for gram in set().union(*some))
    log_pictures = math.log(len(people))

    def vector(counts: Counts) -> list[dict[tuple[str, ...], float]]:
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(MAX_ORDER)]
        for gram, count in counts.items():
            weight = log_pictures - math.log(max(1, seen[gram]))
            found[len(gram) - 1][gram] = count * weight
        return found

    scores = []
    for caption, some in zip(written, people, strict=True):
        ours, length = _ngrams(caption), _num_bigrams(caption)
        values = [
            _cosines(vector(ours), vector(one))
            * math.exp(-((length - _bigrams_of(one)) ** 2) / (2 * _CIDER_SIGMA**2))
            for one in some
        ]
        scores.append(_CIDER_SCALE * np.mean(values))
    return np.array(scores)


def bleu(references: Sequence[Sequence[str]], written: Sequence[str]) -> list[float]:
    """Returns BLEU-1 to BLEU-4 of the corpus, brevity against the closest reference.

    Args:
      references: Of every picture, token strings.
      written: A token string a picture.
    """
    guessed, right = np.zeros(MAX_ORDER), np.zeros(MAX_ORDER)
    num_written = num_reference = 0
    for caption, some in zip(written, references, strict=True):
        length = len(caption.split())
        num_written += length
        num_reference += min(
            (abs(len(one.split()) - length), len(one.split())) for one in some
        )[1]
        most: Counts = Counts()
        for one in some:
            most |= _ngrams(one)  # of each n-gram the largest count
        for gram, count in (_ngrams(caption) & most).items():
            right[len(gram) - 1] += count
        guessed += [max(0, length - order) for order in range(MAX_ORDER)]
    precisions = (right + _TINY) / (guessed + _SMALL)
    orders = np.arange(1, MAX_ORDER + 1)
    means = np.exp(np.cumsum(np.log(precisions)) / orders)
    ratio = (num_written + _TINY) / (num_reference + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return (means * brevity).tolist()


def rouge_l(references: Sequence[Sequence[str]], written: Sequence[str]) -> np.ndarray:
    """Returns ROUGE-L of every caption: best precision, best recall of the references.

    Args:
      references: Of every picture, token strings.
      written: A token string a picture.

    Returns:
      float64[N] in [0, 1].
    """
    scores = []
    for caption, some in zip(written, references, strict=True):
        ours = caption.split(" ")
        shared = [_longest_common(ours, one.split(" ")) for one in some]
        lengths = [len(one.split(" ")) for one in some]
        precision = max(shared) / len(ours)
        recall = max(a / b for a, b in zip(shared, lengths, strict=True))
        above = (1 + _ROUGE_BETA**2) * precision * recall
        below = recall + _ROUGE_BETA**2 * precision
        scores.append(above / below if above else 0.0)
    return np.array(scores)


def _ngrams(text: str) -> Counts:
    """How often each n-gram up to `MAX_ORDER` occurs."""
    words = text.split()
    return Counts(
        tuple(words[start : start + order])
        for order in range(1, MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )


def _num_bigrams(text: str) -> int:
    return max(0, len(text.split()) - 1)


def _bigrams_of(counts: Counts) -> int:
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def _cosines(ours: list[dict], theirs: list[dict]) -> float:
    """The mean over orders of the cosine, what is too frequent in ours clipped."""
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        product = sum(min(a[gram], b.get(gram, 0.0)) * b.get(gram, 0.0) for gram in a)
        lengths = math.hypot(*a.values()) * math.hypot(*b.values())
        total += product / lengths if lengths else product
    return total / MAX_ORDER


def _longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for place, other in enumerate(b, 1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]
