"""Candidates are scored in the hole of the prompt that training would have shown."""

import numpy as np
import pytest

from cm3leon_jax import api
from cm3leon_jax.data.sources import visdial
from cm3leon_jax.data.sources.visdial import Turn
from cm3leon_jax.decoding import scoring
from cm3leon_jax.decoding.writer import Writer
from cm3leon_jax.documents import cm3
from cm3leon_jax.evals import dialog
from cm3leon_jax.jobs import evaluate, folder
from cm3leon_jax.vocab import Vocab
from configs import benchmark as config_file

VOCAB = Vocab(
    text_size=300, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
PICTURE = np.zeros((8, 8, 3), np.uint8)


def _turn(options=("yes", "2"), relevance=(0.0, 1.0)):
    history = (("is it red", "yes"),)
    return Turn("7#2", None, "a cat", history, "how many", options, relevance)


def _encode(text):
    return [4 + byte for byte in text.encode()]


def _writer():
    return Writer(
        model=None,
        vocab=VOCAB,
        encode_text=_encode,
        decode_text=None,
        num_text_pieces=300,
        encode_pictures=lambda pictures: np.zeros((len(pictures), 4), np.int32),
        decode_pictures=None,
        image_size=8,
    )


@pytest.fixture
def seen(monkeypatch):
    """Longer continuations get worse scores a token; prompts are kept."""
    kept = []

    def scores(model, before, after, shapes):
        kept.extend(zip(before, after, strict=True))
        return [np.full(len(row), -float(len(row)), np.float32) for row in after]

    monkeypatch.setattr(scoring, "scores", scores)
    return kept


def test_a_candidate_with_its_prompt_is_what_training_would_have_shown(seen):
    dialog.scores(_writer(), [_turn()], PICTURE[None])
    whole = cm3.restore(np.concatenate(seen[0]), VOCAB)
    text = "a cat. Question: is it red? Answer: yes. Question: how many? Answer: yes."
    codes = VOCAB.image_ids(np.zeros(4, np.int32))
    expected = [VOCAB.EOS, *_encode(text), VOCAB.break_id, *codes, VOCAB.EOS]
    np.testing.assert_array_equal(whole, expected)


def test_scores_are_means_in_the_order_of_candidates(seen):
    turns = [_turn(("a", "abc")), _turn(("abcd",), (1.0,))]
    found = dialog.scores(_writer(), turns, np.stack([PICTURE] * 2))
    # A space, the letters, and the end of the infill.
    assert [row.tolist() for row in found] == [[-3.0, -5.0], [-6.0]]


def test_the_job_ranks_and_keeps_its_parts(seen, tmp_path, monkeypatch):
    turns = [_turn(("yes", "2"), (0.0, 1.0)), _turn(("a", "abc"), (0.0, 1.0))]
    monkeypatch.setattr(visdial, "read", lambda root: turns)
    load = "cm3leon_jax.data.pictures.load"
    monkeypatch.setattr(load, lambda place, rule: PICTURE)
    model = api.Model(_writer(), "abc")
    monkeypatch.setattr(api, "load", lambda path, **_: model)
    config = config_file.get_config("visdial,debug")
    config.benchmark.update(num_cases=2, cases_per_part=1)
    evaluate.run(config, str(tmp_path / "out"))
    numbers = folder.summary(str(tmp_path / "out"))["numbers"]
    # Of two turns the first ranks the short, right candidate first.
    assert numbers == {"num_cases": 2, "ndcg": 0.5}
    count = len(seen)
    (tmp_path / "out" / "done.json").unlink()
    (tmp_path / "out" / "parts" / "00001.json").unlink()
    evaluate.run(config, str(tmp_path / "out"))
    assert len(seen) == count + 2
    config.benchmark.num_cases = 3
    with pytest.raises(ValueError, match="has 2 turns"):
        evaluate.run(config, str(tmp_path / "other"))
