"""Enlarged pictures beside bicubic ones."""

import random

import numpy as np
from flax import nnx

from cm3leon_jax.evals import enlargement
from cm3leon_jax.models import lpips
from cm3leon_jax.scenes import drawing, sampling
from cm3leon_jax.scenes.world import WorldConfig

ORIGINALS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


def test_each_side_has_its_own_numbers():
    worse = ORIGINALS // 2
    found = enlargement.evaluate(ORIGINALS, ORIGINALS, worse)
    assert found["psnr"] > 70
    assert found["psnr_bicubic"] < 20
    assert found["ssim"] > 0.99 > found["ssim_bicubic"]
    for name in ("gradient_pyramid", "frechet_blocks"):
        assert abs(found[name]) < 1e-6 < found[f"{name}_bicubic"]


def test_lpips_stands_under_its_name_where_its_network_is_given():
    network = lpips.Lpips(rngs=nnx.Rngs(0), widths=((4,),))
    found = enlargement.evaluate(ORIGINALS, ORIGINALS, ORIGINALS // 2, network)
    assert found["lpips"] < 1e-6 < found["lpips_bicubic"]
    assert "gradient_pyramid" not in found


def test_judge_counts_what_it_still_reads():
    world, rng = WorldConfig(sign_prob=0.0), random.Random(0)
    scenes = [sampling.sample(world, "train", rng) for _ in range(4)]
    originals = np.stack([drawing.draw(scene, world) for scene in scenes])
    found = enlargement.judged(originals, originals, originals * 0 + 255, world)
    assert found == {"objects": 1.0, "objects_bicubic": 0.0}
