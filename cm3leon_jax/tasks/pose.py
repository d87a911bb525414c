"""Drawing people in a pose (pose-to-image, 142k examples).

`Make high quality image from openpose features <break> {control} <break> {caption} <break>
{image}`. The skeletons are OpenPose's drawings, read from disk.

Source: CM3Leon, arXiv:2309.02591, Table 5; pairs as ControlNet's users keep them.
"""

from __future__ import annotations

from cm3leon_jax.tasks import control

NAME = "pose"
READERS = ("imagefolder", "controlnet")
NUM_EXAMPLES = 142_000
METRIC = "pictures"
OTHERS = (NAME,)
TEMPLATE = "Make high quality image from openpose features"
TEXTS = (TEMPLATE,)

examples, prompt = control.task(NAME, TEMPLATE)
