"""Drawing from a segmentation map (seg-to-image, 1M examples).

`Make high quality image from a segmentation map <break> {map} <break> {caption} <break>
{image}`. The maps show classes as colours, read from disk.

Source: CM3Leon, arXiv:2309.02591, Table 5.
"""

from __future__ import annotations

from cm3leon_jax.tasks import control

NAME = "segmentation"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 1_000_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from a segmentation map"
TEXTS = (TEMPLATE,)

examples, prompt = control.task(NAME, TEMPLATE)
