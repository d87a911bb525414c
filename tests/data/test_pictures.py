import hashlib
import os
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import pictures
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.refusals import Reason, RefusedError
from cm3leon_jax.data.sources import blob

CONFIG = PictureConfig(image_size=16, max_pixels=1_000_000)


def _save(path, picture, **options):
    picture.save(path, **options)
    return path


def _load_reason(path, config=CONFIG):
    start = time.process_time()
    with pytest.raises(RefusedError) as caught:
        pictures.load(path, config)
    assert time.process_time() - start < 1
    return caught.value.reason


def _chunk(kind, body):
    checked = kind + body
    return (
        struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))
    )


def _png(width, height, *chunks):
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data


def test_a_picture_of_the_right_size_is_left_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    path = _save(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(pictures.load(path, CONFIG), pixels)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb_by_the_rule(tmp_path, mode, colour, expected):
    path = _save(tmp_path / "a.png", Image.new(mode, (24, 20), colour))
    pixels = pictures.load(path, CONFIG)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [expected])


def test_palette_with_transparency_is_laid_on_white(tmp_path):
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([255, 0, 0] * 256)
    path = _save(tmp_path / "a.png", picture, transparency=0)
    assert (pictures.load(path, CONFIG) == 255).all()


def test_cmyk_and_animations_are_read(tmp_path):
    path = _save(tmp_path / "a.jpg", Image.new("CMYK", (40, 40), (0, 0, 0, 255)))
    assert pictures.load(path, CONFIG).max() < 20
    frames = [Image.new("RGB", (20, 20), name) for name in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(
        pictures.load(tmp_path / "a.gif", CONFIG)[0, 0], [255, 0, 0]
    )


def test_the_middle_is_cut_out_and_exif_turns(tmp_path):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 255
    path = _save(tmp_path / "wide.png", Image.fromarray(pixels))
    assert (pictures.load(path, CONFIG) == 255).all()
    turned = Image.fromarray(np.repeat(pixels[:, :32], 2, axis=0))  # 32 x 32
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored left is the top when shown
    path = _save(tmp_path / "turned.jpg", turned, exif=exif, quality=95)
    shown = pictures.load(path, CONFIG)
    assert shown[:6].max() < 60 and shown[10:].min() > 200


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    path = _save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert _load_reason(path) == Reason.UNREADABLE


@pytest.mark.parametrize("content", [b"", b"a text named .jpg", b"\xff\xd8\xff" * 9])
def test_files_that_are_no_pictures_are_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert _load_reason(tmp_path / "a.jpg") == Reason.UNREADABLE


@pytest.mark.parametrize("side", [5000, 100_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    (tmp_path / "a.png").write_bytes(_png(side, side))
    assert _load_reason(tmp_path / "a.png") == Reason.TOO_MANY_PIXELS
    with pytest.raises(RefusedError):
        pictures.shown_size(tmp_path / "a.png", PictureConfig(max_bytes=10))


def test_the_largest_that_is_accepted_takes_bounded_memory(tmp_path):
    path = _save(tmp_path / "a.png", Image.new("RGB", (7000, 7000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pictures.load(path, PictureConfig(image_size=16))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 2.5 * 4 * 7000 * 7000  # Pillow has four bytes a pixel


def _ramp():
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    return Image.fromarray(pixels)


def _palette(transparency):
    return _ramp().quantize(16), {"transparency": transparency}


def _faded():
    picture = _ramp().convert("RGBA")
    picture.putalpha(Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)))
    return picture


def _grey(dtype):
    return Image.fromarray((np.arange(256).reshape(16, 16) * 257).astype(dtype))


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Pixels of the rule in lossless files, so that they change with the rule alone.
GOLDEN = {
    "RGB.png": (lambda: (_ramp(), {}), "f3a25aa9"),
    "RGB.webp": (lambda: (_ramp(), {"lossless": True}), "f3a25aa9"),
    "L.png": (lambda: (_ramp().convert("L"), {}), "5d53d896"),
    "1.bmp": (lambda: (_ramp().convert("1"), {}), "18d1f017"),
    "LA.png": (lambda: (_ramp().convert("LA"), {}), "5d53d896"),
    "RGBA.png": (lambda: (_faded(), {}), "25dcc11d"),
    "RGBA.webp": (lambda: (_faded(), {"lossless": True, "exact": True}), "25dcc11d"),
    "P.png": (lambda: (_ramp().quantize(16), {}), "691be563"),
    "P.gif": (lambda: (_ramp().quantize(16), {}), "691be563"),
    "P-one-transparent.png": (lambda: _palette(3), "774ef5c7"),
    "P-alpha.png": (lambda: _palette(bytes(range(0, 256, 16))), "b042d886"),
    "RGB-one-transparent.png": (
        lambda: (_ramp(), {"transparency": (0, 1, 2)}),
        "9945f8f1",
    ),
    "CMYK.tif": (lambda: (_ramp().convert("CMYK"), {}), "f3a25aa9"),
    "YCbCr.tif": (lambda: (_ramp().convert("YCbCr"), {}), "a3fa3b70"),
    "LAB.tif": (lambda: (_ramp().convert("LAB"), {}), "e01e4aec"),
    "I-16.png": (lambda: (_grey(np.uint16), {}), "72432263"),
    "I-16.tif": (lambda: (_grey(np.uint16), {}), "72432263"),
    "I-32.tif": (lambda: (_grey(np.int32), {}), "72432263"),
    "turned.png": (lambda: (_ramp(), {"exif": _turned(6)}), "9b76be66"),
    "mirrored.png": (lambda: (_ramp(), {"exif": _turned(5)}), "f7abfdd5"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_pixels_by_the_rule_are_golden(tmp_path, name):
    picture, options = GOLDEN[name][0]()
    pixels = pictures.load(_save(tmp_path / name, picture, **options), CONFIG)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:8] == GOLDEN[name][1]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"icc_profile": bytes(2_000_000)}),
        ("jpg", {"exif": b"Exif\0\0II*\0\xff\xff\xff\x7f"}),
        ("jpg", {"exif": b"Exif\0\0" + b"\xff" * 40}),
        ("webp", {"save_all": True, "append_images": [Image.new("RGB", (16, 16))] * 3}),
        ("png", {"save_all": True, "append_images": [Image.new("RGB", (16, 16))] * 3}),
        (
            "gif",
            {
                "save_all": True,
                "append_images": [Image.new("RGB", (16, 16))],
                "loop": 0,
            },
        ),
    ],
)
def test_strange_metadata_and_endless_animations_show_the_first_frame(
    tmp_path, suffix, options
):
    red = Image.new("RGB", (16, 16), (200, 0, 0))
    pixels = pictures.load(_save(tmp_path / f"a.{suffix}", red, **options), CONFIG)
    assert pixels[..., 0].min() > 190 and pixels[..., 1:].max() < 10


def test_a_huge_colour_profile_is_refused(tmp_path):
    path = _save(tmp_path / "a.png", _ramp(), icc_profile=bytes(10_000_000))
    assert _load_reason(path) == Reason.UNREADABLE


def test_integers_beyond_16_bits_are_refused(tmp_path):
    pixels = np.full((16, 16), 70_000, np.int32)
    path = _save(tmp_path / "a.tif", Image.fromarray(pixels))
    assert _load_reason(path) == Reason.MODE


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert _load_reason(tmp_path / "a.png") == Reason.NOT_A_FILE


def test_a_picture_within_a_larger_file_is_the_same_picture(tmp_path):
    path = _save(tmp_path / "a.png", _ramp())
    data = path.read_bytes()
    (tmp_path / "pack").write_bytes(b"before" + data + b"after")
    span = blob.Span(tmp_path / "pack", "a", 6, len(data))
    np.testing.assert_array_equal(
        pictures.load(span, CONFIG), pictures.load(path, CONFIG)
    )
    cut = blob.Span(tmp_path / "pack", "a", 6, len(data) + 100)
    assert _load_reason(cut) == Reason.UNREADABLE


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 300), Reason.TOO_SMALL),
        ((300, 1), Reason.TOO_SMALL),
        ((900, 10), Reason.TOO_ELONGATED),
    ],
)
def test_shapes_beyond_the_rule_are_refused(tmp_path, size, reason):
    assert _load_reason(_save(tmp_path / "a.png", Image.new("RGB", size))) == reason


def test_float_pixels_large_files_and_missing_files_are_refused(tmp_path):
    path = _save(tmp_path / "a.tif", Image.new("F", (20, 20), 0.5))
    assert _load_reason(path) == Reason.MODE
    small = PictureConfig(image_size=16, max_bytes=10)
    assert _load_reason(path, small) == Reason.TOO_MANY_BYTES
    assert _load_reason(tmp_path / "none.png") == Reason.MISSING


def test_a_huge_text_chunk_is_refused(tmp_path):
    text = _chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(80_000_000)))
    (tmp_path / "a.png").write_bytes(_png(16, 16, text))
    assert _load_reason(tmp_path / "a.png") == Reason.UNREADABLE


def test_boxes_follow_the_crop():
    boxes = pictures.crop_boxes([[50, 0, 100, 50], [0, 0, 20, 50]], 100, 50)
    np.testing.assert_allclose(boxes, [[0.5, 0, 1, 1], [0, 0, 0, 1]])
    for bad in ([[1, 2, 3]], [[0, 0, -1, 5]], [["a", 0, 1, 1]], [[0, 0, np.nan, 1]]):
        with pytest.raises(ValueError, match="boxes must be"):
            pictures.crop_boxes(bad, 10, 10)
