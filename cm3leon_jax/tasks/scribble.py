"""Drawing from a child's scribble (scribble-to-image, 500k examples).

`Make high quality image from children's scribbles <break> {control} <break> {caption} <break>
{image}`. The strokes are read, or else drawn here (`lines.scribble`).

Source: CM3Leon, arXiv:2309.02591, Table 5; pairs as ControlNet's users keep them.
"""

from __future__ import annotations

from cm3leon_jax.tasks import control, lines

NAME = "scribble"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 500_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from children's scribbles"
TEXTS = (TEMPLATE,)

examples, prompt = control.task(NAME, TEMPLATE, lines.scribble)
