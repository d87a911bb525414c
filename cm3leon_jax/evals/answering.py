"""How well questions are answered: the accuracy of VQA, and that of choices.

    prediction "net", people [net x 4, netting x 6]   of nine others 3 or 4 agree: 1.0

An answer is right to a third for every person who gave it, of the nine left when one is
taken out; the mean over who is taken out is its accuracy. Before that, unless all people
gave the same words, both sides are brought to one form (`normalise`).

Source: VQA, Antol et al., arXiv:1505.00468; the official evaluation,
github.com/GT-Vision-Lab/VQA, `vqaEval.py`, whose quirks are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official code passes a flag where the count belongs
_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        1,
    )
}
_ARTICLES = ("a", "an", "the")
# Words that are written with all their apostrophes where one of them is left out.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at
shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've
'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the other way round in the official table


def evaluate(
    people: Sequence[Sequence[str]], answers: Sequence[str]
) -> dict[str, float]:
    """Returns `vqa_accuracy`, the mean over questions.

    Args:
      people: Of every question, the answers that people gave, ten in VQA.
      answers: Of every question the model's answer.

    Raises:
      ValueError: If a question has no answers, or the numbers differ.
    """
    if len(people) != len(answers) or not answers or not all(people):
        raise ValueError(
            f"{len(answers)} answers to {len(people)} questions; every question needs an"
            " answer, and people's answers to compare it with"
        )
    pairs = zip(people, answers, strict=True)
    return {"vqa_accuracy": float(np.mean([accuracy(*pair) for pair in pairs]))}


def accuracy(people: Sequence[str], answer: str) -> float:
    """Returns how right one answer is, in [0, 1].

    Args:
      people: The answers that people gave, at least one.
      answer: The model's.
    """
    people = [_plain(one) for one in people]
    answer = _plain(answer)
    if len(set(people)) > 1:
        people, answer = [normalise(one) for one in people], normalise(answer)
    same = sum(one == answer for one in people)
    # Whoever gave the answer, when taken out, leaves one fewer who did.
    values = [min(1.0, (same - (one == answer)) / 3) for one in people]
    return sum(values) / len(values)


def normalise(answer: str) -> str:
    """Returns an answer in the form in which the official evaluation compares.

        "Two dogs, and a cat."     "2 dogs and cat"

    Punctuation goes: without a trace beside a space, or where the answer has a comma
    between digits, else leaving a space. Numbers become digits, articles go, apostrophes
    come back.
    """
    text = answer
    has_thousands = _THOUSANDS.search(answer) is not None
    for mark in _PUNCTUATION:
        is_beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if is_beside_space or has_thousands else " ")
    text = _PERIOD.sub("", text, count=_MAX_PERIODS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    kept = (word for word in words if word not in _ARTICLES)
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)


def choices(right: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Returns `accuracy`: the share of questions with the right choice."""
    if not right or len(right) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(right)} questions")
    hits = [a == b for a, b in zip(right, answers, strict=True)]
    return {"accuracy": float(np.mean(hits))}


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
