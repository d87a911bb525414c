import numpy as np
import pytest

from cm3leon_jax.tasks import lines


def _square(size=64, low=40, high=220):
    picture = np.full((size, size, 3), low, np.uint8)
    picture[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = high
    return picture


def test_edges_of_a_square_are_one_thin_closed_line():
    mask = lines.edges(_square())[:, :, 0] > 0
    rows, columns = np.nonzero(mask)
    assert {rows.min(), columns.min()} <= {15, 16}
    assert {rows.max(), columns.max()} <= {47, 48}
    # Thin: a row through the middle crosses two lines of one pixel.
    assert mask[32].sum() == 2 and mask[:, 32].sum() == 2
    assert 4 * 30 <= mask.sum() <= 4 * 34


def test_edges_see_a_change_of_colour_alone():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16, 0], picture[:, 16:, 2] = 200, 200
    assert lines.edges(picture)[:, :, 0].any(axis=1).all()


def test_a_weak_edge_counts_only_where_a_strong_one_touches_it():
    ramp = np.linspace(0, 60, 64)[:, None].repeat(32, 1)  # contrast grows downwards
    picture = np.concatenate([np.zeros((64, 32)), ramp], 1)
    picture = picture[:, :, None].repeat(3, 2).astype(np.uint8)
    both = lines.edge_mask(picture, low=60, high=120)
    strong = lines.edge_mask(picture, low=120, high=120)
    weak = lines.edge_mask(picture, low=60, high=1e9)
    assert strong.sum() < both.sum() and not weak.any()
    assert not (strong & ~both).any()


def test_a_flat_picture_has_no_lines_and_a_bright_one_the_same():
    assert not lines.edges(np.full((16, 16, 3), 7, np.uint8)).any()
    dark, bright = _square(low=20, high=120), _square(low=120, high=220)
    np.testing.assert_array_equal(lines.edges(dark), lines.edges(bright))


@pytest.mark.parametrize("size", [64, 61])
def test_a_scribble_has_the_pictures_size_and_thick_strokes(size):
    drawn = lines.scribble(_square(size))
    assert drawn.shape == (size, size, 3)
    mask = drawn[:, :, 0] > 0
    assert mask.sum() > 2 * lines.edges(_square(size))[:, :, 0].astype(bool).sum()


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(ValueError, match="in order"):
        lines.edges(_square(), low=5, high=1)
