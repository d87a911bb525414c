"""Questions that need knowledge beside the picture: OK-VQA (26k examples).

`Question: {q} Answer: {a}. <break> {image}`, and two more templates; the most frequent
answer is the target. 9,009 training questions of ten answers each; with every template
once they make the paper's 26k.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

from cm3leon_jax.tasks import vqa

NAME = "okvqa"
READERS = ("vqa",)
NUM_EXAMPLES = 26_000
METRIC = vqa.METRIC
OTHERS = ()
TEMPLATES = vqa.TEMPLATES
TEXTS = vqa.TEXTS

examples, prompt, parse = vqa.task(NAME), vqa.prompt, vqa.parse
