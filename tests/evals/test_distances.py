import numpy as np
import pytest

from cm3leon_jax.evals import distances
from cm3leon_jax.evals.distances import Statistics


def _features(number, dim=6, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(number, dim)) + shift


def test_a_set_is_at_no_distance_from_itself():
    features = _features(50)
    found = distances.statistics(features)
    assert distances.frechet(found, found) == pytest.approx(0, abs=1e-9)
    assert distances.cmmd(features, features) == pytest.approx(0, abs=1e-9)


def test_two_gaussians_have_the_closed_form():
    a = Statistics(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    b = Statistics(np.array([0.0, 0.0]), np.diag([1.0, 1.0]))
    # 1 + 4 and (2 - 1)^2 + (3 - 1)^2
    assert distances.frechet(a, b) == pytest.approx(10.0)


def test_frechet_of_covariances_that_do_not_commute_equals_the_matrix_root():
    a, b = (distances.statistics(_features(40, seed=seed) ** 3) for seed in (1, 2))
    values, vectors = np.linalg.eig(a.covariance_EE @ b.covariance_EE)
    root = vectors @ np.diag(np.sqrt(values)) @ np.linalg.inv(vectors)
    apart = ((a.mean_E - b.mean_E) ** 2).sum()
    both = np.trace(a.covariance_EE + b.covariance_EE)
    expected = apart + both - 2 * np.trace(root).real
    assert distances.frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_fewer_pictures_than_features_is_finite_and_symmetric():
    a, b = (distances.statistics(_features(4, 32, seed=seed)) for seed in (1, 2))
    assert distances.frechet(a, b) == pytest.approx(distances.frechet(b, a), rel=1e-6)


def test_statistics_are_numpys_and_survive_the_file_of_pytorch_fid(tmp_path):
    features = _features(30)
    found = distances.statistics(features)
    np.testing.assert_allclose(found.mean_E, np.mean(features, axis=0))
    np.testing.assert_allclose(found.covariance_EE, np.cov(features, rowvar=False))
    distances.write_statistics(tmp_path / "s.npz", found)
    read = distances.read_statistics(tmp_path / "s.npz", 6)
    np.testing.assert_array_equal(read.covariance_EE, found.covariance_EE)
    with pytest.raises(ValueError, match="features have width 2048"):
        distances.read_statistics(tmp_path / "s.npz", 2048)
    np.savez(tmp_path / "x.npz", mean=found.mean_E)
    with pytest.raises(ValueError, match=r"lacks \['mu', 'sigma'\]"):
        distances.read_statistics(tmp_path / "x.npz", 6)


def test_kid_is_unbiased_and_grows_with_the_distance():
    real, same, far = _features(400), _features(400, seed=1), _features(400, shift=1.0)
    near, spread = distances.kernel(real, same, num_subsets=20, subset_size=200)
    assert abs(near) < 3 * spread
    assert distances.kernel(real, far, num_subsets=5)[0] > 10 * abs(near)


def test_cmmd_is_the_formula_of_its_paper():
    a, b = (_features(9, seed=seed) for seed in (1, 2))

    def mean(x, y):
        squares = ((x[:, None] - y[None]) ** 2).sum(-1)
        return np.exp(-squares / 200).mean()

    expected = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert distances.cmmd(a, b) == pytest.approx(expected)


def test_inception_score_is_one_for_doubt_and_the_number_of_sure_classes():
    even = np.full((40, 4), 0.25)
    assert distances.inception_score(even)[0] == pytest.approx(1.0)
    sure = np.eye(4)[np.arange(40) % 4]
    assert distances.inception_score(sure)[0] == pytest.approx(4.0)


def test_clip_score_counts_no_negative_cosine():
    pictures = np.array([[1.0, 0.0], [1.0, 0.0]])
    texts = np.array([[0.6, 0.8], [-1.0, 0.0]])
    assert distances.clip_score(pictures, texts) == pytest.approx(30.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: distances.statistics(np.zeros((1, 3))),
        lambda: distances.statistics(np.full((3, 3), np.nan)),
        lambda: distances.frechet(
            distances.statistics(_features(5, 3)), distances.statistics(_features(5, 4))
        ),
        lambda: distances.kernel(_features(5, 3), _features(5, 4)),
        lambda: distances.kernel(_features(1), _features(5)),
        lambda: distances.cmmd(_features(5, 3), _features(5, 4)),
        lambda: distances.inception_score(np.eye(4)),
    ],
)
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(ValueError):
        call()
