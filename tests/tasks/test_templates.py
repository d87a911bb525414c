import pytest

from cm3leon_jax.tasks import templates


def test_texts_hold_the_words_of_every_template_and_nothing_to_fill_in():
    names = ("caption", "vqa", "edit", "layout", "segmentation")
    texts = templates.texts(names)
    for words in (
        "Question:",
        "Answer:",
        "Describe the given picture.",
        "Edit first image following the instruction",
        "with segmentations",
        "at location (0, 0) -> (256, 256)",
        "Make high quality image from a segmentation map",
    ):
        assert any(words in text for text in texts), words
    assert not any("{" in text for text in texts)
    assert len(texts) == len(set(texts))


def test_texts_of_an_unknown_task_are_refused():
    with pytest.raises(ValueError, match="no task 'ocr'"):
        templates.texts(("caption", "ocr"))
