"""Paragraphs about pictures: Image Paragraph (14k examples).

`Describe the given picture in very detail. {paragraph} <break> {image}`, and two more
templates. The paragraph is the target.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

from cm3leon_jax.tasks import caption

NAME = "paragraph"
READERS = ("paragraphs",)
NUM_EXAMPLES = 14_000
METRIC = "captions"
OTHERS = ()
TEMPLATES = (
    "Describe the given picture in very detail.",
    "Describe all the objects in the given image in very detail.",
    "Generate a long caption for the given image.",
)
TEXTS = TEMPLATES

examples, prompt, parse = caption.task(NAME, TEMPLATES, is_long=True)
