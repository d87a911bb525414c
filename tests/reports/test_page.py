import html.parser
import math

import numpy as np

from cm3leon_jax.reports import page

_VOID = {"meta", "img"}


class _Checker(html.parser.HTMLParser):
    """Follows tags: every one that is opened is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _check(text):
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def test_page_is_one_well_formed_file_without_links(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    parts = [
        page.heading("A & B", "about <it>"),
        page.figures({"seconds": "3"}),
        page.cards([page.row([page.picture(pixels, "a <b>")]), page.say("x", "y")]),
        page.table(("name", "value"), [["a", "1.0"], ["b", page.bar(0.5, 0.1)]]),
        page.chart("loss", {"a": [(0, 2.0), (10, 1.0)]}, unit="steps"),
    ]
    page.write(tmp_path / "page.html", "Title", parts)
    checker = _check((tmp_path / "page.html").read_text())
    assert all(link.startswith("data:") for link in checker.links)


def test_text_from_outside_is_escaped():
    hostile = "<script>alert(1)</script>"
    pixels = np.zeros((2, 2, 3), np.uint8)
    made = [
        page.say(hostile, hostile),
        page.heading(hostile, hostile),
        page.picture(pixels, f'" onload="{hostile}'),
        page.chart(hostile, {hostile: [(0, 1.0)]}),
        page.table((hostile,), [["a " + hostile]]),
    ]
    for part in made:
        assert "<script>" not in part
        assert 'onload="' not in part


def test_chart_leaves_out_what_is_not_finite():
    drawn = page.chart("loss", {"a": [(0, 1.0), (1, math.nan), (2, 0.5)]})
    assert "nan" not in drawn
    assert drawn.count("polyline") == 1
    assert page.chart("loss", {"a": [(0, math.inf)]}) == ""


def test_number_is_written_as_a_person_reads_it():
    values = (300.0, 0.5, 2.5293, 1.2e-7, 0.0)
    assert [page.number(value) for value in values] == [
        *("300", "0.500", "2.529", "1.2e-07", "0.000")
    ]
