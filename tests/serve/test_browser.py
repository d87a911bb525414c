"""The page in a headless Chromium: drawn, asked, edited, filled in, with the kept model.

Needs gradio, playwright and a Chromium. Screenshots are left in pytest's folder.
"""

import dataclasses
import pathlib
import random
import shutil
import zlib

import numpy as np
import pytest

from cm3leon_jax.data import record, shards
from cm3leon_jax.data.bank import Bank
from cm3leon_jax.documents.document import Modality
from cm3leon_jax.jobs import serve
from cm3leon_jax.retrieval.strategy import StrategyConfig
from cm3leon_jax.scenes import drawing, judge, language, sampling
from cm3leon_jax.scenes.world import QUICK
from cm3leon_jax.serve import page as pages
from cm3leon_jax.serve.studio import Studio
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
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(studio_and_address, browser):
    return _open(browser, studio_and_address[1])


def _open(browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.set_default_timeout(PATIENCE)
    tab.goto(address)
    tab.wait_for_selector("#draw-go")
    return tab


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


def _vectors(texts):
    """Unit vectors of what words are in a text: a stand-in for the bi-encoder."""
    found = np.zeros((len(texts), 64), np.float32)
    for row, text in zip(found, texts, strict=True):
        for word in text.split():
            row[zlib.crc32(word.encode()) % 64] += 1
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _bank(writer, folder):
    """Three scenes as shards, with their words' vectors."""
    rng = random.Random(0)
    scenes = [sampling.sample(QUICK, "train", rng) for _ in range(3)]
    texts = [language.caption(scene, QUICK) for scene in scenes]
    pictures = np.stack([drawing.draw(scene, QUICK) for scene in scenes])
    codes = writer.encode_pictures(pictures)
    vectors = _vectors(texts).astype(np.float16)
    records = [
        record.Record(
            id=f"scene-{index}",
            tokens=np.array(
                [
                    *writer.encode_text(text),
                    writer.vocab.break_id,
                    *writer.vocab.image_ids(codes[index]),
                ],
                np.uint16,
            ),
            modality=np.array([Modality.TEXT, Modality.IMAGE], np.uint8),
            source="three scenes",
            licence="CC0-1.0",
            text_vector=vectors[index],
            image_vector=vectors[index],
        )
        for index, text in enumerate(texts)
    ]
    info = shards.SetInfo(writer.vocab, "t", "i", "e")
    written = [shards.write_shard(folder, "bank", 0, records)]
    shards.finish(folder, info, {"bank": written})
    rules = StrategyConfig(max_similarity=1.0, num_candidates=3)
    return Bank([shards.open(folder, "bank")], rules), texts


@pytest.fixture(scope="module")
def page_with_bank(studio_and_address, place):
    model = studio_and_address[0].model
    bank, texts = _bank(model.writer, place / "pairs")
    model = dataclasses.replace(model, bank=bank, embed_text=_vectors)
    studio = Studio(model, place / "with_bank", studio_and_address[0].limits)
    usual = config_file.get_config().defaults.to_dict()
    built = pages.build(studio, pages.Defaults(**usual | {"examples": ()}))
    address = pages.open_page(built, studio, "127.0.0.1", 0, block=False)
    yield studio, address, texts
    built.close()


def _ask_for(tab, text, num_documents):
    tab.fill("#draw-text textarea", text)
    tab.fill("#documents input[type=number]", str(num_documents))
    tab.keyboard.press("Tab")
    tab.click("#draw-go")


@pytest.mark.slow
def test_retrieved_documents_stand_beside_what_was_drawn_with_them(
    page_with_bank, browser, place
):
    studio, address, texts = page_with_bank
    tab = _open(browser, address)
    _ask_for(tab, texts[1], 2)
    tab.wait_for_selector("#origin >> text=looks at these documents first")
    assert tab.locator("#origin figure img").count() == 2  # before it is finished
    tab.wait_for_selector("#origin >> text=checkpoint")
    tab.screenshot(path=str(place / "documents.png"), full_page=True)
    said = tab.inner_text("#origin")
    assert "scene-1, three scenes, CC0-1.0, score 1.0" in said
    figures = tab.locator("#origin figure")
    assert figures.count() == 2 and figures.first.inner_text() == texts[1]
    origin = studio.read(studio.gallery()[0][0]).origin
    ids = [each["id"] for each in origin["retrieved"]]
    assert ids[0] == "scene-1" and len(set(ids)) == 2

    _ask_for(tab, ASKED, 0)
    tab.wait_for_selector("#origin >> text=no documents")
    assert figures.count() == 0
    _wait_for_gallery(tab, studio, 2)
    tab.locator("#gallery button.thumbnail-item").nth(1).click()
    tab.wait_for_selector("#origin >> text=scene-1")
    assert figures.count() == 2  # chosen later, they are there again
    tab.screenshot(path=str(place / "chosen.png"), full_page=True)
