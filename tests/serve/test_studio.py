"""What the page does: shown as it comes, kept with its origin, refused with a reason."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax import storage
from cm3leon_jax.api import Ask, Near
from cm3leon_jax.reports import provenance
from cm3leon_jax.serve import studio as studios


def test_pictures_come_row_by_row_and_are_kept_when_they_are_whole(studio):
    looks = list(studio.make(Ask("draw", "a dog", seed=7), 2))
    assert [len(look.pictures) for look in looks] == [2] * 4
    assert [look.origin is None for look in looks] == [True, True, True, False]
    assert looks[0].pictures[0][:, 0, 0].tolist() == [7, 7, 0, 0, 0, 0, 0, 0]
    assert [path.name for path in looks[-1].files] == ["000001.png", "000002.png"]
    for path, seed in zip(looks[-1].files, (7, 8), strict=True):
        inside = provenance.read(path)
        assert inside == storage.read_json(path.with_suffix(".json"))
        assert (inside["prompt"], inside["seed"]) == ("a dog", seed)
        assert np.asarray(Image.open(path))[0, 0, 0] == seed


def test_the_gallery_has_the_newest_first_and_outlives_the_page(studio, tmp_path):
    for text in ("a dog", "a cat"):
        list(studio.make(Ask("draw", text)))
    again = studios.Studio(studio.model, tmp_path, studio.limits)
    assert [text for _, text in again.gallery()] == ["a cat", "a dog"]
    list(again.make(Ask("draw", "a bird")))
    shown = again.read(again.gallery()[0][0])
    assert shown.origin["prompt"] == "a bird"
    assert shown.files[0].name == "000003.png"


def test_what_cannot_be_made_is_refused_and_the_next_is_made(studio):
    for ask, count, what in (
        (Ask("draw", "impossible"), 1, "say something else"),
        (Ask("draw", "a dog"), 4, "ask for 1 to 3"),
        (Ask("draw", "x" * 21), 1, "21 letters"),
        (Ask("draw", "a dog", retrieve=1), 1, "no memory bank"),
        (Ask("caption"), 1, "needs a picture"),
    ):
        with pytest.raises(ValueError, match=what):
            list(studio.make(ask, count))
    assert not studio.gallery()
    list(studio.make(Ask("draw", "a dog")))
    assert len(studio.gallery()) == 1


def test_only_files_of_the_gallery_are_read(studio, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"no")
    for path in ("secret.png", "gallery/../secret.png", "gallery/none.png"):
        with pytest.raises(ValueError, match="not in the gallery"):
            studio.read(str(tmp_path / path))


def test_a_picture_is_enlarged_and_shrunk_without_a_change():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    large = studios.enlarge(picture)
    assert large.shape == (384, 384, 3)
    np.testing.assert_array_equal(studios.shrink(large, 64), picture)
    photo = rng.integers(0, 256, (384, 384, 3)).astype(np.uint8)
    np.testing.assert_array_equal(studios.shrink(photo, 64), photo)
    wide = rng.integers(0, 256, (400, 600, 3)).astype(np.uint8)
    np.testing.assert_array_equal(studios.shrink(wide, 64), wide)


def test_seeds_are_typed_or_drawn():
    assert studios.seed_of(" 12 ") == 12
    assert studios.seed_of("") != studios.seed_of(None)  # a box that was never shown
    with pytest.raises(ValueError, match="whole number"):
        studios.seed_of("-1")


def test_limits_are_positive():
    with pytest.raises(ValueError, match="max_waiting=0"):
        studios.Limits(max_waiting=0)


@dataclasses.dataclass
class FakeModel:
    """Finds two documents for every text."""

    writer: object
    bank: object = "a bank"

    def near(self, text, count):
        assert text == "a dog"
        ids = ("r2", "r1", "r0")[:count]
        return [Near(f"near {each}", None, {"id": each}) for each in ids]


def test_what_a_kept_picture_looked_at_is_found_again(studio):
    *_, last = studio.make(Ask("draw", "a dog"))
    assert studio.read(str(last.files[0])).near == ()
    retrieved = [{"id": each} for each in ("r1", "gone")]
    origin = last.origin | {"retrieved": retrieved}
    last.files[0].write_bytes(provenance.png(last.pictures[0], origin))
    assert studio.read(str(last.files[0])).near == ()  # no bank
    studio.model = FakeModel(studio.model.writer)
    shown = studio.read(str(last.files[0]))
    assert [each.text for each in shown.near] == ["near r1"]
