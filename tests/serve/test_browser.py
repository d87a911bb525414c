"""The page in a headless Chromium: drawn, asked, edited, filled in, with the kept model.

Needs gradio, playwright and a Chromium. Screenshots are left in pytest's folder.
"""

import pathlib
import shutil

import numpy as np
import pytest

from cm3leon_jax.jobs import serve
from cm3leon_jax.scenes import judge, language
from cm3leon_jax.scenes.world import QUICK
from cm3leon_jax.serve import page as pages
from configs import serve as config_file

DEMO = pathlib.Path(__file__).parent.parent.parent / "examples" / "demo"
ASKED = "a red circle at the top left and a blue triangle at the bottom right"
PATIENCE = 240_000  # ms: compiling, on a machine that others use too
_WATCH = """() => {
  window.seen = new Set();
  const look = () => document.querySelectorAll('#made img').forEach(
    image => window.seen.add(image.src));
  new MutationObserver(look).observe(
    document.querySelector('#made'),
    {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def studio_and_address(place):
    pytest.importorskip("gradio")
    config = config_file.get_config()
    config.model = str(DEMO)
    built, studio = serve.build(config, place)
    yield studio, pages.open_page(built, studio, "127.0.0.1", 0, block=False)
    built.close()


@pytest.fixture(scope="module")
def tab(studio_and_address):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        tab.set_default_timeout(PATIENCE)
        tab.goto(studio_and_address[1])
        tab.wait_for_selector("#draw-go")
        yield tab
        browser.close()


def _wait_for_gallery(tab, studio, count):
    for _ in range(PATIENCE // 200):
        if len(studio.gallery()) >= count:
            tab.wait_for_timeout(1_000)
            return
        tab.wait_for_timeout(200)
    raise AssertionError(f"{len(studio.gallery())} of {count} pictures were made")


def _newest(studio):
    shown = studio.read(studio.gallery()[0][0])
    return shown.origin, judge.read_all(np.stack(shown.pictures), QUICK)[0]


@pytest.mark.slow
def test_a_visitor_draws_asks_edits_and_fills_in(studio_and_address, tab, place):
    studio, _ = studio_and_address
    tab.click("#draw-go")  # a mistake: nothing is asked for
    tab.wait_for_selector("text=say what to draw first")
    tab.evaluate(_WATCH)
    tab.fill("#draw-text textarea", ASKED)
    tab.click("#draw-go")
    _wait_for_gallery(tab, studio, 1)
    tab.wait_for_selector("#origin >> text=checkpoint")
    tab.screenshot(path=str(place / "drawn.png"), full_page=True)
    assert len(tab.evaluate("[...window.seen]")) >= 3  # row by row
    origin, seen = _newest(studio)
    assert origin["prompt"] == ASKED
    assert len(seen.things) == 2

    tab.click("#hand-describe")
    tab.wait_for_selector("#describe-picture img")
    tab.click("#describe-go")
    said = "document.querySelector('#said textarea').value"
    tab.wait_for_function(f"{said} !== ''")
    assert tab.evaluate(said) == language.caption(seen, QUICK)
    tab.fill("#question textarea", "how many objects are there?")
    tab.click("#ask-go")
    tab.wait_for_function(f"{said} === 'two'")
    tab.screenshot(path=str(place / "asked.png"), full_page=True)

    tab.click("#hand-edit")
    tab.wait_for_selector("#edit-picture img")
    tab.fill("#edit-text textarea", "make the red circle green")
    tab.click("#edit-go")
    _wait_for_gallery(tab, studio, 2)
    tab.screenshot(path=str(place / "edited.png"), full_page=True)
    origin, _ = _newest(studio)
    assert origin["kind"] == "edit"
    usual = config_file.get_config().defaults
    assert origin["sampling"]["guidance"] == usual.edit_guidance
    assert origin["sampling"]["image_guidance"] == usual.edit_image_guidance

    tab.click("#hand-fill")
    tab.wait_for_selector("#fill-picture canvas")
    tab.wait_for_timeout(1_500)
    box = tab.locator("#fill-picture canvas").first.bounding_box()
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(across - 60, down - 60)
    tab.mouse.down()
    for step in range(5):
        tab.mouse.move(across - 60 + 10 * step, down - 60 + 4 * step)
    tab.mouse.up()
    tab.screenshot(path=str(place / "painted.png"), full_page=True)
    tab.click("#fill-go")
    _wait_for_gallery(tab, studio, 3)
    tab.screenshot(path=str(place / "filled.png"), full_page=True)
    origin, _ = _newest(studio)
    assert origin["kind"] == "infill"
    assert origin["mask_cells"] > 0
