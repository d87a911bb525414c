"""Questions that blind people asked about their pictures: VizWiz (92k examples).

`Question: {q} Answer: {a}. <break> {image}`, and two more templates; the most frequent
of ten answers is the target. A picture that does not show the answer is answered
`unanswerable`, as the official metric wants it; `keep_unanswerable=False` leaves such
questions out.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

from cm3leon_jax.tasks import vqa

NAME = "vizwiz"
READERS = ("vizwiz",)
NUM_EXAMPLES = 92_000
METRIC = vqa.METRIC
OTHERS = ()
TEMPLATES = vqa.TEMPLATES
TEXTS = vqa.TEXTS

examples, prompt, parse = vqa.task(NAME), vqa.prompt, vqa.parse
