"""The page is built and answers, where gradio is installed."""

import json
import sys
import urllib.request

import pytest

from cm3leon_jax.serve import page

DEFAULTS = page.Defaults(0.7, 0.9, 3.0, 7.5, 1.5, ("a dog",))


def test_the_page_answers_this_machine(studio):
    pytest.importorskip("gradio")
    built = page.build(studio, DEFAULTS)
    address = page.open_page(built, studio, "127.0.0.1", 0, block=False)
    try:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}config", timeout=20) as answer:
            config = json.loads(answer.read())
        assert config["title"] == page.TITLE
        labels = [part["props"].get("label") for part in config["components"]]
        for label in ("What to draw", "Question", "What to change", "Made"):
            assert label in labels
    finally:
        built.close()


def test_buttons_draw_edit_describe_and_survive_mistakes(studio, tmp_path):
    """By the very events that the buttons have."""
    pytest.importorskip("gradio")
    gradio_client = pytest.importorskip("gradio_client")
    built = page.build(studio, DEFAULTS)
    address = page.open_page(built, studio, "127.0.0.1", 0, block=False)
    try:
        client = gradio_client.Client(address, verbose=False)
        drawing = ("a dog", 2, 3.0, 0.7, 0.9, "5", 0)
        job = client.submit(*drawing, api_name="/draw")
        pictures, origin, record, kept = job.result(timeout=60)
        assert len(pictures) == len(kept) == 2
        assert "a dog" in origin
        assert json.loads(record)["seed"] == 5
        assert len(job.outputs()) >= 2  # row by row
        with pytest.raises(Exception, match="say what to draw first"):
            client.predict("", *drawing[1:], api_name="/draw")
        given = gradio_client.handle_file(str(studio.gallery()[0][0]))
        scales = (7.5, 1.5, 0.7, "3")
        edited = client.predict(given, "make it red", *scales, api_name="/edit")
        assert json.loads(edited[2])["sampling"]["image_guidance"] == 1.5
        said, *_ = client.predict(given, "what is it?", api_name="/answer")
        assert said == "words"
        assert len(studio.gallery()) == 3
    finally:
        built.close()


def test_without_gradio_the_extra_is_named(studio, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"cm3leon-jax\[serve\]"):
        page.build(studio, DEFAULTS)
