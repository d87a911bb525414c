import numpy as np

from cm3leon_jax.data import card
from cm3leon_jax.data.card import Card
from cm3leon_jax.data.record import Record
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=32, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)


def _record(num_text, **fields):
    tokens = [*[5] * num_text, VOCAB.break_id, *VOCAB.image_ids(np.arange(4))]
    modality = np.array([0, 1], np.uint8)
    return Record("x", np.array(tokens, np.uint16), modality, **fields)


def _card(records):
    made = Card()
    for record in records:
        made.count(record, VOCAB)
    return made


RECORDS = [
    _record(1, source="a", licence="CC0"),
    _record(2, source="a"),
    _record(3, text_vector=np.ones(2, np.float16)),
    _record(9, licence="CC0"),
]


def test_counts_are_those_of_the_records():
    made = _card(RECORDS)
    assert (made.documents, made.pictures, made.text_tokens) == (4, 4, 15)
    assert (made.tokens, made.with_vectors) == (15 + 4 * 5, 1)
    assert made.sources == {"a": 2, card.UNKNOWN: 2}
    assert made.licences == {"CC0": 2, card.UNKNOWN: 2}
    assert made.caption_lengths == {"1": 1, "2": 2, "4": 1}


def test_cards_of_parts_add_up_to_the_whole_and_come_back_from_json():
    whole = Card()
    for part in (RECORDS[:1], RECORDS[1:3], [], RECORDS[3:]):
        whole.add(Card.from_json(_card(part).to_json()))
    assert whole == _card(RECORDS)


def test_names_beyond_the_limit_are_counted_together(monkeypatch):
    monkeypatch.setattr(card, "MAX_NAMES", 2)
    whole = Card()
    for name, count in (("a", 5), ("b", 1), ("c", 3), ("d", 2)):
        whole.add(_card([_record(1, source=name)] * count))
    assert whole.sources["a"] == 5 and whole.sources.total() == 11
    assert whole.sources[card.OTHERS] >= 1
