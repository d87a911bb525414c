import collections

from cm3leon_jax.data.card import Card
from cm3leon_jax.reports import card

REFUSALS = {
    "accepted": 3,
    "refused": 2,
    "total": 5,
    "by_reason": {"licence": 1, "unreadable": 1},
}


def _card(**counts):
    return Card(documents=3, tokens=30, text_tokens=12, **counts)


def test_the_page_says_counts_by_split_source_and_licence():
    cards = {"train": _card(sources=collections.Counter({"a": 2, "b": 1}))}
    page = card.markdown("pairs", cards, REFUSALS, "made of tar shards")
    assert "| train | 3 | 30 |" in page and "| a | 2 | 66.7% |" in page
    assert "3 rows accepted + 2 refused = 5." in page and "| licence | 1 |" in page
    assert "4.0 tokens of text" in page


def test_lengths_are_said_as_spans():
    lengths = collections.Counter({"0": 1, "1": 2, "4": 3})
    page = card.markdown(
        "pairs", {"train": _card(caption_lengths=lengths)}, REFUSALS, ""
    )
    for line in ("| 0 | 1 |", "| 1 | 2 |", "| 8 to 15 | 3 |"):
        assert line in page


def test_names_of_others_stay_in_their_cell():
    hostile = "x | y\n| z | <script>alert(1)</script> [a](javascript:b)"
    counts = collections.Counter({hostile: 3})
    page = card.markdown("pairs", {"train": _card(licences=counts)}, REFUSALS, "")
    (line,) = [line for line in page.splitlines() if "alert" in line]
    assert line.startswith("| x \\| y") and line.endswith("| 3 | 100.0% |")
    assert "<script>" not in page.replace("\\<script\\>", "")
