"""How well a model draws, describes and edits the built-in world: the judge decides.

Every number is a mean over held-out cases, one sample a prompt, no re-ranking, and
stands beside the best guess that needs no prompt (`guess`). What is measured:

    objects     share of requested objects read back with right colour, shape, place;
                also guided, contrastive, and the best of n by the bi-encoder
    drawings    the same, drawn in one way alone
    samples     the best of 1, 2, 4, ... n, of one way of drawing or of two
    relations   share of pairs of objects that stand to each other as asked
    writing     the words of a sign, of scenes that have one
    captions    every object and attribute right
    answers     exact match
    edits       the asked change made and the rest kept
    infills     the hidden object right; its pixels are blanked before encoding
    layouts     as `objects`, from boxes; `layouts_iou`, how the boxes overlap
    emblems_n   devices that no training row shows, with n documents retrieved by the
                words of the prompt alone; `emblems_shuffled` with wrong documents

`evaluate` runs everything.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cm3leon_jax.decoding import prompts, rerank
from cm3leon_jax.decoding.writer import Order
from cm3leon_jax.evals import chance, descriptions
from cm3leon_jax.evals.bench import Bench, Case, Outcome, Sample
from cm3leon_jax.scenes import annotations, edits, judge, language, scores
from cm3leon_jax.scenes.world import Scene
from cm3leon_jax.tasks import edit, layout, pair, segmentation
from cm3leon_jax.tasks import writing as writing_task
from cm3leon_jax.tasks.row import Box

_SECOND_HALF = 2**20  # between the seeds of the two halves of `samples`


def evaluate(
    bench: Bench,
    cases: Sequence[Case],
    report: Callable[[str], None] = lambda name: None,
) -> Outcome:
    """Returns every number of this module, its guess beside it, and samples.

    Args:
      bench: A model and what it is measured with.
      cases: Held-out pictures: scenes, and emblems that no training row shows.
      report: Called with the name of each part before it runs.

    Raises:
      ValueError: If there are no scenes or no emblems among the cases.
    """
    scenes = [case for case in cases if case.scene.emblem is None]
    crests = [case for case in cases if case.scene.emblem is not None]
    if not scenes or not crests:
        raise ValueError(
            f"{len(scenes)} scenes and {len(crests)} emblems to measure; draw more"
            " rows (rows.num_test, rows.test_emblem_share)"
        )
    limit = bench.config.num_cases
    scenes, crests = scenes[:limit], crests[:limit]
    metrics: dict[str, float] = {"num_scenes": len(scenes), "num_emblems": len(crests)}
    samples: list[Sample] = []
    for name in bench.config.parts:
        if name not in PARTS:
            raise ValueError(f"parts: {name!r} is not one of {', '.join(PARTS)}")
        report(name)
        found, shown = PARTS[name](bench, crests if name == "emblems" else scenes)
        metrics.update(found)
        samples += shown
    return metrics, samples


def objects(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing from text: plain, guided, contrastive, best of n.

    `objects_reconstructed` is the tokenizer's own limit: what the judge reads in the
    true pictures after encoding and decoding.
    """
    config, asked = bench.config, [case.scene for case in cases]
    texts = [case.text for case in cases]
    parts = [pair.prompt(text) for text in texts]
    metrics, samples = {}, []
    for key, sampling in (
        ("objects", config.drawing),
        ("objects_guided", config.guided),
        ("objects_contrastive", config.contrastive),
    ):
        pictures, read = bench.draw(parts, sampling)
        metrics |= chance.measured(key, scores.objects, asked, read, asked)
        samples += _drawings(key, bench, cases, pictures, read, scores.objects)
    key = f"objects_best_of_{config.num_samples}"
    many, _ = bench.draw(
        [each for each in parts for _ in range(config.num_samples)], config.varied
    )
    grouped = many.reshape(len(cases), config.num_samples, *many.shape[1:])
    best = rerank.best(texts, grouped, bench.embed_text, bench.embed_pictures)
    pictures = grouped[np.arange(len(cases)), best]
    read = judge.read_all(pictures, bench.world)
    metrics |= chance.measured(key, scores.objects, asked, read, asked)
    samples += _drawings(key, bench, cases, pictures, read, scores.objects)
    true = np.stack([case.picture for case in cases])
    writer = bench.writer
    back = writer.decode_pictures(writer.encode_pictures(true))
    read = judge.read_all(back, bench.world)
    metrics["objects_reconstructed"] = chance.mean(scores.objects, asked, read)
    samples += [
        dataclasses.replace(sample, given=case.picture)
        for sample, case in zip(
            _drawings("reconstructed", bench, cases, back, read, scores.objects),
            cases,
            strict=True,
        )
    ]
    return metrics, samples


def drawings(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing from text, by `drawing` alone."""
    parts = [pair.prompt(case.text) for case in cases]
    return _drawn(bench, cases, parts, {"drawings": scores.objects})


def samples(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing from text, the best of 1, 2, 4, ... by the bi-encoder.

    Every second drawing is by `mixed`, the others by `varied`; the paper's best mixture
    is top-p and CD-K.
    """
    most = bench.config.num_samples
    texts, asked = [case.text for case in cases], [case.scene for case in cases]
    size = (bench.world.image_size, bench.world.image_size, 3)
    pictures = np.empty((len(cases), most, *size), np.uint8)
    for half in range(min(2, most)):
        sampling = (bench.config.varied, bench.config.mixed)[half]
        parts = [pair.prompt(text) for text in texts for _ in range(half, most, 2)]
        drawn, _ = bench.draw(parts, sampling, first_seed=half * _SECOND_HALF)
        pictures[:, half::2] = drawn.reshape(len(cases), -1, *size)
    near = rerank.similarities(texts, pictures, bench.embed_text, bench.embed_pictures)
    metrics, shown, count = {}, [], 1
    while count <= most:
        key = f"samples_best_of_{count}"
        chosen = pictures[np.arange(len(cases)), near[:, :count].argmax(axis=1)]
        read = judge.read_all(chosen, bench.world)
        metrics |= chance.measured(key, scores.objects, asked, read, asked)
        shown = _drawings(key, bench, cases, chosen, read, scores.objects)
        count *= 2
    return metrics, shown


def relations(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing scenes of several objects: how they stand to each other."""
    several = [case for case in cases if len(case.scene.things) > 1]
    parts = [pair.prompt(case.text) for case in several]
    return _drawn(bench, several, parts, {"relations": scores.relations})


def writing(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing signs from their words alone; the row does not count.

    Raises:
      ValueError: If no case has a sign.
    """
    signs = [
        (case, case.scene.sign.text) for case in cases if case.scene.sign is not None
    ]
    if not signs:
        raise ValueError("no scene has a sign (world.sign_prob); leave out `writing`")
    shown = [case for case, _ in signs]
    parts = [writing_task.prompt(text) for _, text in signs]
    return _drawn(bench, shown, parts, {"writing": scores.words})


def edited(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Editing by instruction; leaving the picture as it is counts as a guess."""
    rng = random.Random(f"edits/{bench.config.seed}")
    proposed = [
        (case, edits.propose(case.scene, bench.world, "test", rng)) for case in cases
    ]
    asked = [(case, change) for case, change in proposed if change is not None]
    pictures, read = bench.draw(
        [edit.prompt(case.picture, change.instruction) for case, change in asked],
        bench.config.drawing,
    )
    after = [change.after for _, change in asked]
    before = [case.scene for case, _ in asked]
    metrics = chance.measured("edits", scores.edits, after, read, after)
    kept = chance.mean(scores.edits, after, before)
    metrics["edits_guess"] = max(metrics["edits_guess"], kept)
    samples = [
        Sample(
            "edits",
            change.instruction,
            scores.edits(change.after, scene),
            bench.caption(change.after),
            bench.caption(scene),
            case.picture,
            picture,
        )
        for (case, change), picture, scene in zip(asked, pictures, read, strict=True)
    ]
    return metrics, samples


def infills(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing an object anew whose place was blanked, by the caption beside it."""
    rng = random.Random(f"infills/{bench.config.seed}")
    hidden = [rng.choice(case.scene.things) for case in cases]
    masks = [_cells(thing, bench) for thing in hidden]
    pictures, read = bench.draw(
        [(case.text, case.picture) for case in cases],
        bench.config.drawing,
        hidden=masks,
    )
    metrics = chance.measured(
        "infills", scores.infills, hidden, read, [case.scene for case in cases]
    )
    samples = [
        Sample(
            "infills",
            case.text,
            scores.infills(thing, scene),
            f"{language.short(thing)} at the {language.place(thing, bench.world)}",
            bench.caption(scene),
            # What the model saw.
            Order((case.picture,), hidden_YX=mask).pictures[-1],
            picture,
        )
        for case, thing, mask, picture, scene in zip(
            cases, hidden, masks, pictures, read, strict=True
        )
    ]
    return metrics, samples


def emblems(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing devices that only the memory bank shows, with 0, 1, 2 documents."""
    texts, asked = [case.text for case in cases], [case.scene for case in cases]
    found = bench.retrieve(texts, 2)
    others = [_other(cases, index) for index in range(len(cases))]
    metrics, samples = {}, []
    for key, neighbours in (
        ("emblems_0", [()] * len(cases)),
        ("emblems_1", [places[:1] for places in found]),
        ("emblems_2", found),
        ("emblems_shuffled", [found[other] for other in others]),
    ):
        pictures, read = bench.draw(
            [pair.prompt(text) for text in texts], bench.config.drawing, neighbours
        )
        metrics |= chance.measured(key, scores.emblems, asked, read, asked)
        drawn = _drawings(key, bench, cases, pictures, read, scores.emblems)
        samples += [
            dataclasses.replace(
                sample, neighbours=places, expected=bench.caption(case.scene)
            )
            for sample, places, case in zip(drawn, neighbours, cases, strict=True)
        ]
    return metrics, samples


def layouts(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing from a caption and boxes."""
    parts = []
    for case in cases:
        found = annotations.boxes(case.scene, bench.world)
        size = bench.world.image_size
        boxes = [
            Box(each["name"], tuple(corner / size for corner in each["box"]))
            for each in found
        ]
        parts.append(
            layout.prompt(case.text, boxes, coordinates=bench.config.coordinates)
        )
    overlaps = functools.partial(scores.overlaps, world=bench.world)
    asked = {"layouts": scores.objects, "layouts_iou": overlaps}
    return _drawn(bench, cases, parts, asked)


def segmentations(bench: Bench, cases: Sequence[Case]) -> Outcome:
    """Drawing from a segmentation map and a caption."""
    parts = [
        segmentation.prompt(
            annotations.segmentation(case.scene, bench.world)[0], case.text
        )
        for case in cases
    ]
    return _drawn(bench, cases, parts, {"segmentations": scores.objects})


PARTS: dict[str, Callable[[Bench, Sequence[Case]], Outcome]] = {
    "objects": objects,
    "drawings": drawings,
    "samples": samples,
    "relations": relations,
    "writing": writing,
    "captions": descriptions.captions,
    "answers": descriptions.answers,
    "edits": edited,
    "infills": infills,
    "emblems": emblems,
    "layouts": layouts,
    "segmentations": segmentations,
    "text_infills": descriptions.text_infills,
}


def _drawn(
    bench: Bench,
    cases: Sequence[Case],
    parts: Sequence[tuple],
    asked_for: Mapping[str, chance.Score],
) -> Outcome:
    """Numbers of one drawing a case, by name; the first is the samples' too."""
    pictures, read = bench.draw(parts, bench.config.drawing)
    asked = [case.scene for case in cases]
    metrics, (first, *_) = {}, asked_for
    for key, score in asked_for.items():
        metrics |= chance.measured(key, score, asked, read, asked)
    score = asked_for[first]
    return metrics, _drawings(first, bench, cases, pictures, read, score)


def _drawings(
    key: str,
    bench: Bench,
    cases: Sequence[Case],
    pictures: np.ndarray,
    read: Sequence[Scene],
    score: Callable[[Scene, Scene], float],
) -> list[Sample]:
    return [
        Sample(
            key,
            case.text,
            score(case.scene, scene),
            case.text,
            bench.caption(scene),
            drawn=picture,
        )
        for case, picture, scene in zip(cases, pictures, read, strict=True)
    ]


def _cells(thing, bench: Bench) -> np.ndarray:
    """The cells of the code grid that an object's place touches, bool[G, G]."""
    box = annotations.thing_box(thing, bench.world)
    size, grid = bench.world.image_size, bench.writer.vocab.grid_size
    return prompts.cells(box, size, grid)


def _other(cases: Sequence[Case], index: int) -> int:
    """The next case that shows another emblem."""
    emblem = cases[index].scene.emblem
    for step in range(1, len(cases)):
        other = (index + step) % len(cases)
        if cases[other].scene.emblem != emblem:
            return other
    raise ValueError("all cases show one emblem; draw more rows to measure")
