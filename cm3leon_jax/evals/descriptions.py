"""What a model says about the pictures of the built-in world.

captions      every object and attribute right
answers       exact match
text_infills  a hidden word of a caption right, the picture beside it
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from cm3leon_jax.evals import chance
from cm3leon_jax.evals.bench import Bench, Case, Outcome, Sample
from cm3leon_jax.scenes import language, scores
from cm3leon_jax.scenes.questions import Question
from cm3leon_jax.tasks import caption, infill, vqa

MAX_YES_NO_SHARE = 0.5  # of the questions that are measured


def captions(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Describing a picture."""
    written = bench.write(
        [caption.prompt(case.picture) for case in cases],
        bench.config.max_caption,
    )
    written = [caption.parse(text) for text in written]
    parsed = [language.parse_caption(text, bench.world) for text in written]
    shown = [case.scene for case in cases]
    metrics = chance.measured("captions", scores.captions, shown, parsed, shown)
    samples = [
        Sample(
            "captions",
            "Describe the given picture.",
            scores.captions(case.scene, scene),
            case.text,
            text,
            case.picture,
        )
        for case, text, scene in zip(cases, written, parsed, strict=True)
    ]
    return metrics, samples


def answers(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Answering one question a picture, not over half of them yes or no."""
    rng = random.Random(f"questions/{bench.config.seed}")
    asked = [(case, rng.choice(case.questions)) for case in cases if case.questions]
    limit = int(MAX_YES_NO_SHARE * len(asked))
    closed = [pair for pair in asked if pair[1].kind == "yes/no"][:limit]
    asked = [pair for pair in asked if pair[1].kind != "yes/no"] + closed
    written = bench.write(
        [vqa.prompt(each.question, case.picture) for case, each in asked],
        bench.config.max_answer,
    )

    written = [vqa.parse(text) for text in written]

    def score(question: Question, answer: str) -> float:
        return float(question.answer == answer)

    questions = [question for _, question in asked]
    metrics = {
        "answers": chance.mean(score, questions, written),
        "answers_guess": chance.guess_by_kind(
            score,
            questions,
            written,
            [question.kind for question in questions],
            sorted({question.answer for question in questions}),
        ),
        "answers_yes_no_share": len(closed) / len(asked),
    }
    samples = [
        Sample(
            "answers",
            question.question,
            score(question, text),
            question.answer,
            text,
            case.picture,
        )
        for (case, question), text in zip(asked, written, strict=True)
    ]
    return metrics, samples


def text_infills(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Writing the hidden colour of an object into a caption, the picture beside it."""
    rng = random.Random(f"text infills/{bench.config.seed}")
    things = [rng.choice(case.scene.things) for case in cases]
    colours = [thing.colour for thing in things]
    cut = [
        case.text.partition(f" {language.short(thing)}")
        for case, thing in zip(cases, things, strict=True)
    ]
    rest = [
        found.removeprefix(f" {colour}") + after
        for (_, found, after), colour in zip(cut, colours, strict=True)
    ]
    written = bench.write(
        [
            infill.prompt(before, after, case.picture)
            for (before, _, _), after, case in zip(cut, rest, cases, strict=True)
        ],
        bench.config.max_answer,
    )

    def score(colour: str, text: str) -> float:
        return float(colour == text)

    metrics = chance.measured(
        "text_infills", score, colours, written, bench.world.colours
    )
    samples = [
        Sample(
            "text_infills",
            f"{before} ___{after}",
            score(colour, text),
            colour,
            text,
            case.picture,
        )
        for (before, _, _), after, colour, text, case in zip(
            cut, rest, colours, written, cases, strict=True
        )
    ]
    return metrics, samples
