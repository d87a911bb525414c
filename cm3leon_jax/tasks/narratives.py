"""What people said about pictures: Localized Narratives (164k examples).

`Describe the given picture in very detail. {narrative} <break> {image}`, and two more
templates. A picture has several narrators: each is a row of its own. The narrative is
the target.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

from cm3leon_jax.tasks import caption

NAME = "narratives"
READERS = ("narratives",)
NUM_EXAMPLES = 164_000
METRIC = "captions"
OTHERS = ()
TEMPLATES = (
    "Describe the given picture in very detail.",
    "Generate a long narration of what is happening in the given image.",
    "Generate a long caption for the given image.",
)
TEXTS = TEMPLATES

examples, prompt, parse = caption.task(NAME, TEMPLATES, is_long=True)
