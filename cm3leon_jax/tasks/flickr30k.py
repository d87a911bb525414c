"""Captions of Flickr30k (144k examples: five for each of 29,000 pictures).

`Describe the given picture. {caption} <break> {image}`, or the caption alone. Every
caption of a picture is a row of its own; the caption is the target.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

from cm3leon_jax.tasks import caption

NAME = "flickr30k"
READERS = ("flickr30k", "karpathy")
NUM_EXAMPLES = 144_000
METRIC = "captions"
OTHERS = ()
TEMPLATES = caption.TEMPLATES
TEXTS = TEMPLATES

examples, prompt, parse = caption.task(NAME, TEMPLATES)
