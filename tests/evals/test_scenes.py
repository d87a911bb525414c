"""The built-in world's numbers, with writers that know everything or nothing."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax.decoding.sampling import PLAIN
from cm3leon_jax.decoding.writer import Result
from cm3leon_jax.documents.example import Hole
from cm3leon_jax.evals import bench as benches
from cm3leon_jax.evals import scenes
from cm3leon_jax.scenes import drawing, edits, judge, language, rows
from cm3leon_jax.scenes.questions import Question
from cm3leon_jax.scenes.world import QUICK, Background, Scene, Sign, WorldConfig
from cm3leon_jax.vocab import Vocab

NUM_CASES = 40
ROWS = rows.RowConfig(1, 1, 80, 0.0, 0.5, 4, 0.0, 0.0, 0)


class Oracle:
    """A writer that reads pictures with the judge and draws what it is told.

    It stands for a perfect model; an emblem it knows only from a document in front
    whose first segment is the name (here a string in place of a Document).
    """

    vocab = Vocab(codes_per_image=16)

    def __init__(self, cases):
        self._answers = {
            (case.picture.tobytes(), question.question): question.answer
            for case in cases
            for question in case.questions
        }

    def encode_pictures(self, pictures):
        return pictures

    decode_pictures = encode_pictures

    def check(self, order):
        if len(order.parts[0]) > 10_000:
            raise ValueError("shorten the prompt")

    def run(self, orders):
        return [self._fulfil(order) for order in orders]

    def _fulfil(self, order):
        if order.wants_text:
            words, picture = order.parts[0], order.parts[-1]
            if words.startswith("Question: "):
                question = words.removeprefix("Question: ").removesuffix(" Answer:")
                return Result(text=" " + self._answers[picture.tobytes(), question])
            assert isinstance(order.parts[1], Hole)
            if len(order.parts) == 4:
                name = order.parts[2].split()[0]
                things = judge.read(picture, QUICK).things
                place = order.parts[2].split(" at the ")[1].split(" on ")[0]
                place = place.split(" and ")[0].split(",")[0]
                for thing in things:
                    where = language.place(thing, QUICK)
                    if (thing.shape, where) == (name, place):
                        return Result(text=thing.colour)
            return Result(text=language.caption(judge.read(picture, QUICK), QUICK))
        words = order.parts[0]
        if words.startswith("Generate high quality image of "):
            text = words.removeprefix("Generate high quality image of ")
            return self._draw(language.parse_caption(text.split(" with ")[0], QUICK))
        if words.startswith("Make high quality"):
            return self._draw(language.parse_caption(order.parts[2], QUICK))
        if len(order.parts) == 3:
            before = judge.read(order.parts[1], QUICK)
            return self._draw(edits.apply(order.parts[2], before, QUICK))
        scene = language.parse_caption(order.parts[0], QUICK)
        if scene.emblem is not None and scene.emblem.name not in order.documents:
            scene = Scene(Background("plain", ("white",)))
        return self._draw(scene)

    def _draw(self, scene):
        return Result(picture=drawing.draw(scene, QUICK))


class Constant(Oracle):
    """A writer that gives the same for every order."""

    def _fulfil(self, order):
        if order.wants_text:
            return Result(text="yes")
        return self._draw(language.parse_caption("a red ring at the top left", QUICK))


@pytest.fixture(scope="module")
def cases():
    found = []
    for index in range(80):
        row = rows.row_at(QUICK, ROWS, "test", index)
        record = row.record
        questions = tuple(Question(**each) for each in record["questions"])
        scene = Scene.from_json(record["scene"])
        found.append(benches.Case(record["text"], scene, row.pictures[""], questions))
    return found


def _bench(writer):
    names = {}

    def retrieve(texts, count):
        places = []
        for text in texts:
            name = text.split()[3]
            place = names.setdefault(name, len(names))
            places.append((place,) * count)
        return places

    config = benches.SceneEvalConfig(
        parts=tuple(name for name in scenes.PARTS if name != "writing"),
        num_cases=NUM_CASES,
        num_samples=2,
        drawing=PLAIN,
        writing=PLAIN,
        guided=PLAIN,
        contrastive=PLAIN,
        varied=PLAIN,
        mixed=PLAIN,
        max_caption=40,
        max_answer=8,
        coordinates=16,
        seed=0,
    )
    return benches.Bench(
        writer=writer,
        world=QUICK,
        config=config,
        retrieve=retrieve,
        document=lambda place: list(names)[place],
        embed_text=lambda texts: np.ones((len(texts), 1), np.float32),
        embed_pictures=lambda pictures: np.ones((len(pictures), 1), np.float32),
    )


KEYS = (
    "objects",
    "objects_guided",
    "objects_contrastive",
    "objects_best_of_2",
    "drawings",
    "samples_best_of_1",
    "samples_best_of_2",
    "captions",
    "answers",
    "edits",
    "infills",
    "layouts",
    "layouts_iou",
    "relations",
    "segmentations",
    "text_infills",
    "emblems_1",
    "emblems_2",
)


def test_a_perfect_model_is_measured_as_perfect(cases):
    metrics, samples = scenes.evaluate(_bench(Oracle(cases)), cases)
    for key in (*KEYS, "objects_reconstructed"):
        assert metrics[key] == 1.0, key
    assert metrics["emblems_0"] == metrics["emblems_shuffled"] == 0.0
    assert metrics["answers_yes_no_share"] <= 0.5
    for key in KEYS:
        assert metrics[f"{key}_guess"] < 0.5, key
    # Of the best of n the last is shown, and of two numbers of one drawing the first.
    unseen = {"samples_best_of_1", "layouts_iou"}
    assert {sample.key for sample in samples} >= set(KEYS) - unseen
    assert metrics["num_scenes"] == metrics["num_emblems"] == NUM_CASES


def test_a_model_that_ignores_its_prompt_does_not_beat_the_guess(cases):
    metrics, _ = scenes.evaluate(_bench(Constant(cases)), cases)
    for key in KEYS:
        assert metrics[key] <= metrics[f"{key}_guess"] + 1e-9, key


def test_the_best_of_n_is_of_the_first_n_and_every_second_is_drawn_the_other_way(cases):
    few = [case for case in cases if case.scene.emblem is None][:3]
    asked = []

    class FourthTime(Oracle):
        """Draws what it is told only the second time that it draws the other way."""

        def run(self, orders):
            asked.extend((order.sampling, order.seed) for order in orders)
            is_right = lambda i, o: o.sampling == other and i % 4 == 1
            return [
                self._fulfil(order) if is_right(i, order) else Result(picture=blank)
                for i, order in enumerate(orders)
            ]

    blank = drawing.draw(Scene(Background("plain", ("white",))), QUICK)
    other = dataclasses.replace(PLAIN, top_p=0.5)
    bench = _bench(FourthTime(cases))
    bench = dataclasses.replace(
        bench,
        config=dataclasses.replace(bench.config, num_samples=8, mixed=other),
        embed_pictures=lambda drawn: np.array([[(x != blank).any()] for x in drawn]),
    )
    metrics, _ = scenes.samples(bench, few)
    found = [metrics[f"samples_best_of_{n}"] for n in (1, 2, 4, 8)]
    assert found == [0.0, 0.0, 1.0, 1.0]
    assert len(set(asked)) == len(asked) == 8 * len(few)
    assert sum(sampling == other for sampling, _ in asked) == 4 * len(few)


def test_writing_is_measured_on_scenes_with_signs_and_refused_without(cases):
    plain = [case for case in cases if case.scene.emblem is None][:4]
    with pytest.raises(ValueError, match="sign_prob"):
        scenes.writing(_bench(Oracle(cases)), plain)
    rich = WorldConfig()
    scene = Scene(Background("plain", ("white",)), sign=Sign("TEA", 0))

    class Painter(Oracle):
        """Paints the words that it is told, but for the second order."""

        def run(self, orders):
            told = [order.parts[0].removeprefix('draw "')[:-1] for order in orders]
            signs = [Sign(text if n != 1 else "TAXI", 2) for n, text in enumerate(told)]
            return [
                Result(picture=drawing.draw(dataclasses.replace(scene, sign=one), rich))
                for one in signs
            ]

    bench = dataclasses.replace(_bench(Painter(cases)), world=rich)
    signs = [benches.Case("", scene, drawing.draw(scene, rich))] * 3
    metrics, _ = scenes.writing(bench, signs)
    assert metrics["writing"] == pytest.approx(2 / 3)


def test_what_the_model_has_no_room_for_counts_as_wrong(cases):
    scene_cases = [case for case in cases if case.scene.emblem is None][:4]
    long = dataclasses.replace(scene_cases[0], text="a" * 20_000)
    metrics, _ = scenes.objects(_bench(Oracle(cases)), [long, *scene_cases[1:]])
    assert metrics["objects"] == pytest.approx(3 / 4)


def test_cases_without_emblems_are_refused(cases):
    plain = [case for case in cases if case.scene.emblem is None]
    with pytest.raises(ValueError, match="0 emblems.*test_emblem_share"):
        scenes.evaluate(_bench(Oracle(cases)), plain)


def test_a_case_reads_back_from_its_folder(cases, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the job `scenes`"):
        benches.read_cases(tmp_path)
    assert dataclasses.is_dataclass(cases[0])
