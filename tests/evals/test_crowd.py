import numpy as np
import pytest

from cm3leon_jax.evals import crowd, distances


def _pictures(number, level):
    rng = np.random.default_rng(level)
    return list(rng.integers(level, level + 40, (number, 8, 8, 3), np.uint8))


def _vectors(shown):
    means = shown.reshape(len(shown), -1, 3).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _encode(shown):
    means = shown.reshape(len(shown), -1, 3).mean(axis=1)
    return means, np.full((len(shown), 4), 0.25)


def test_only_inceptions_distance_is_called_fid():
    drawn, real = _pictures(70, 20), _pictures(80, 100)
    inception = crowd.Encoder("fid", _encode)
    ours, theirs = (crowd.features(some, inception) for some in (drawn, real))
    found = crowd.evaluate(ours, theirs, inception.name)
    expected = distances.frechet(
        *(distances.statistics(one.features_NE) for one in (ours, theirs))
    )
    assert found["fid"] == pytest.approx(expected)
    assert set(found) == {
        "fid",
        "kid",
        "kid_std",
        "inception_score",
        "inception_score_std",
    }
    clip = crowd.from_vectors(_vectors, "clip")
    ours, theirs = (crowd.features(some, clip) for some in (drawn, real))
    found = crowd.evaluate(ours, theirs, clip.name)
    assert set(found) == {"frechet_clip", "kid_clip", "kid_clip_std"}


def test_pictures_are_encoded_in_order_some_at_a_time():
    drawn = _pictures(crowd.BATCH + 3, 20)
    whole = crowd.features(iter(drawn), crowd.from_vectors(_vectors, "x"))
    np.testing.assert_allclose(whole.features_NE, _vectors(np.stack(drawn)))
    with pytest.raises(ValueError, match="no pictures"):
        crowd.features([], crowd.from_vectors(_vectors, "x"))


def test_statistics_alone_give_the_distance_and_no_kid():
    features = crowd.features(_pictures(20, 20), crowd.from_vectors(_vectors, "x"))
    known = distances.statistics(features.features_NE)
    found = crowd.evaluate(features, known, "frechet_x")
    assert found == {"frechet_x": pytest.approx(0, abs=1e-9)}


def test_scores_with_texts_bear_the_encoders_name():
    vectors = np.eye(3)
    found = crowd.with_texts(vectors, vectors, vectors, "model")
    assert found == {"clip_score_model": 100.0, "cmmd_model": pytest.approx(0)}
    assert set(crowd.with_texts(vectors, None, vectors, "")) == {"clip_score"}


def test_who_picked_the_drawings_may_not_judge_them():
    crowd.check_judge(1, "a", "a")
    crowd.check_judge(8, "a", "b")
    with pytest.raises(ValueError, match="may not judge"):
        crowd.check_judge(8, "a", "a")


def test_shares_say_what_drawn_pictures_show_beside_the_data():
    prompts, prompt_GE = ("a man", "a woman", "a dog"), np.eye(3)
    drawn_NE, real_NE = np.eye(3)[[0, 0, 0, 1]], np.eye(3)[[0, 1, 1, 1, 0]]
    found = crowd.shares(drawn_NE, real_NE, prompt_GE, prompts)
    assert found["share_drawn/a man"] == 0.75 and found["share_data/a man"] == 0.4
    assert found["share_drawn/a dog"] == found["share_data/a dog"] == 0.0
    assert sum(v for k, v in found.items() if "drawn" in k) == pytest.approx(1)


def test_a_groups_score_is_that_of_its_own_drawings():
    drawn_NE, text_NE = np.eye(2)[[0, 1, 1, 0]], np.eye(2)[[0, 0, 1, 0]]
    found = crowd.by_group(drawn_NE, text_NE, ["x", "y", "x", ""], "judge")
    alone = crowd.with_texts(drawn_NE[[0, 2]], None, text_NE[[0, 2]], "judge")
    assert found["clip_score_judge/x"] == alone["clip_score_judge"]
    assert found["num_cases/x"] == 2 and found["num_cases/y"] == 1
    assert found["clip_score_judge/y"] < found["clip_score_judge/x"]
    assert not any(key.endswith("/") for key in found)
