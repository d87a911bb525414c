"""Drawing from surface normals (norm-to-image, 1M examples).

`Make high quality image from 3D norm features <break> {control} <break> {caption} <break>
{image}`. The maps hold a normal's x, y, z as red, green, blue, read from disk.

Source: CM3Leon, arXiv:2309.02591, Table 5; pairs as ControlNet's users keep them.
"""

from __future__ import annotations

from cm3leon_jax.tasks import control

NAME = "normals"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 1_000_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from 3D norm features"
TEXTS = (TEMPLATE,)

examples, prompt = control.task(NAME, TEMPLATE)
