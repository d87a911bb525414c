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


def test_without_gradio_the_extra_is_named(studio, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"cm3leon-jax\[serve\]"):
        page.build(studio, DEFAULTS)
