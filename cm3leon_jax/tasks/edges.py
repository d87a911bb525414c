"""Drawing from the edges of a picture (edge-to-image, 1M examples).

`Make high quality image from canny edge features <break> {control} <break> {caption} <break>
{image}`. The lines are read, or else drawn here (`lines.edges`).

Source: CM3Leon, arXiv:2309.02591, Table 5; pairs as ControlNet's users keep them.
"""

from __future__ import annotations

from cm3leon_jax.tasks import control, lines

NAME = "edges"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 1_000_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from canny edge features"
TEXTS = (TEMPLATE,)

examples, prompt = control.task(NAME, TEMPLATE, lines.edges)
