import numpy as np
import pytest

from cm3leon_jax.vocab import Vocab

SMALL = Vocab(
    text_size=300,
    image_size=64,
    control_size=32,
    num_sentinels=16,
    codes_per_image=16,
)


def test_paper_vocabulary_fits_sixteen_bits():
    assert Vocab().size == 65_536
    assert Vocab().grid_size == 32


@pytest.mark.parametrize("vocab", [SMALL, Vocab()])
def test_ranges_are_disjoint_and_cover(vocab):
    ids = np.arange(vocab.size)
    text, image = vocab.is_text(ids), vocab.is_image(ids)
    control = ids >= vocab.control_start
    assert np.all(text.astype(int) + image + control == 1)
    assert text.sum() == vocab.text_size
    assert image.sum() == vocab.image_size
    assert vocab.is_sentinel(ids).sum() == vocab.num_sentinels


def test_control_ids_have_known_places():
    assert SMALL.break_id == 364
    assert SMALL.end_of_infill_id == 365
    assert [SMALL.sentinel_id(i) for i in (0, 15)] == [366, 381]


def test_image_codes_and_ids_are_inverse():
    codes = np.arange(SMALL.image_size)
    ids = SMALL.image_ids(codes)
    assert ids[0] == 300
    assert ids[-1] == 363
    np.testing.assert_array_equal(SMALL.codes(ids), codes)


MARKED = Vocab(300, 64, 32, 16, 16, use_image_marks=True)


def test_marks_of_pictures_stand_behind_the_sentinels():
    assert MARKED.begin_image_id == MARKED.sentinel_id(15) + 1
    assert MARKED.end_image_id == MARKED.begin_image_id + 1 < MARKED.size
    assert (MARKED.begin_id, SMALL.begin_id) == (MARKED.BOS, SMALL.EOS)
    ids = np.arange(MARKED.size)
    marks = [MARKED.begin_image_id, MARKED.end_image_id]
    expected = [MARKED.BOS, MARKED.EOS, MARKED.break_id, *marks]
    assert np.flatnonzero(MARKED.is_boundary(ids)).tolist() == expected
    assert np.flatnonzero(SMALL.is_boundary(ids)).tolist() == [2, SMALL.break_id]
    with pytest.raises(ValueError, match="use at least 20"):
        Vocab(300, 64, 19, 16, 16, use_image_marks=True)


def test_a_vocabulary_without_marks_is_written_as_before():
    assert "use_image_marks" not in SMALL.to_json()
    assert Vocab.from_json(MARKED.to_json()) == MARKED != SMALL


def test_json_round_trip_keeps_the_digest():
    again = Vocab.from_json(SMALL.to_json())
    assert again == SMALL
    assert again.digest == SMALL.digest
    assert again.digest != Vocab().digest


@pytest.mark.parametrize(
    "fields",
    [{"codes_per_image": 15}, {"control_size": 17}, {"text_size": 3}],
)
def test_vocabulary_that_does_not_fit_is_refused(fields):
    with pytest.raises(ValueError, match="must"):
        Vocab(**(SMALL.to_json() | fields))


@pytest.mark.parametrize("fields", [{"text_size": "300"}, {"extra": 1}])
def test_damaged_json_is_refused(fields):
    with pytest.raises(ValueError, match="vocab"):
        Vocab.from_json(SMALL.to_json() | fields)


def test_sentinel_out_of_range_is_refused():
    with pytest.raises(ValueError, match="sentinel 16"):
        SMALL.sentinel_id(16)
