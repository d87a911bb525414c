"""The super-resolution stage: an RRDB network that enlarges what the tokenizer draws.

`x4` (Real-ESRGAN's shape for times 4, 256 to 1,024 pixels) and `x2`; `full`, a stage of the
full quickstart, is small enough for one CPU and enlarges 64 pixels to 256. Pairs are made by Real-ESRGAN's blind
degradation and by a round trip through the image tokenizer, half of each. The first half
of the steps has the pixel term alone, then the perceptual and adversarial terms join.

Usage:
    cm3leon --config configs/super_resolution.py --workdir runs/x4 \
        --config.pictures.folder=runs/pictures --config.tokenizer=runs/vqgan
    cm3leon --config configs/super_resolution.py:x2 --workdir runs/x2 ...
    cm3leon --config configs/super_resolution.py:full --workdir runs/large ...
    cm3leon --config configs/super_resolution.py:debug --workdir runs/debug ...
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, variants=("x4", "x2", "full", "debug"))
    small = arg["variant"] in ("full", "debug")
    scale = 2 if arg["variant"] == "x2" else 4
    config = ml_collections.ConfigDict()
    config.job = "super_resolution"
    config.pictures = dict(
        folder="",  # an imagefolder, or one a split
        image_size=256 * scale,  # pixels a side of the large pictures
        min_side=256 * scale,  # pixels; smaller pictures are refused
    )
    config.splits = common.splits(small)  # where the folder has no split folders
    config.tokenizer = ""  # folder of an image tokenizer; empty: degraded pairs alone
    config.tokenised_share = 0.5  # of pairs, where there is a tokenizer
    config.start_from = ""  # folder of an upscaler whose weights are the first ones
    config.model = dict(
        scale=scale,
        channels=64,
        num_blocks=23,
        growth_channels=32,
        use_bicubic_base=False,  # Real-ESRGAN's has none; True learns faster
    )
    config.degradation = dict(strength=1.0, final_sinc_prob=0.8)  # Real-ESRGAN
    config.loss = dict(
        l1_weight=1.0,
        perceptual_weight=1.0,
        adversarial_weight=0.1,
        players_start=1_000_000,  # steps
        players_ramp=1_000,  # steps
    )
    config.lpips = ()  # files of LPIPS' weights; without, the gradient pyramid
    config.discriminator = dict(base_channels=64, num_layers=3, num_groups=8)
    config.optimizer = dict(
        peak_lr=2e-4,
        discriminator_lr=1e-4,
        warmup_steps=1_000,
        final_share=0.1,
        beta1=0.9,
        beta2=0.99,
        clip_norm=1.0,
        average_decay=0.999,
    )
    config.loop = dict(
        num_steps=1_400_000, log_every=100, save_every=5_000, eval_every=20_000
    )
    config.batch_size = 48  # pairs, over all devices
    config.crop_size = 64  # pixels a side of a small crop
    config.num_evaluated = 100  # validation pictures
    config.num_threads = 16  # decoding pictures
    config.num_cpu_devices = 0  # devices that a CPU pretends to be; 0 for one
    config.seed = 0
    if small:
        _make_small(config)
    if arg["variant"] == "debug":
        config.model.update(channels=8, num_blocks=1, growth_channels=4)
        config.loop.update(num_steps=4, save_every=2)
        config.loss.update(adversarial_weight=0.1, players_start=2)
        config.optimizer.warmup_steps = 1
        config.discriminator.update(base_channels=8, num_layers=1)
        config.update(batch_size=8, num_evaluated=8)
    return config


def _make_small(config):
    config.pictures.update(image_size=256, min_side=64)
    config.model.update(
        channels=24, num_blocks=2, growth_channels=12, use_bicubic_base=True
    )
    config.degradation.strength = 0.1  # drawn pictures are clean
    config.tokenised_share = 0.75
    config.loss.update(
        perceptual_weight=0.5,
        adversarial_weight=0.0,
        players_start=400,
        players_ramp=100,
    )
    config.optimizer.update(peak_lr=1e-3, warmup_steps=50, average_decay=0.99)
    config.loop.update(num_steps=800, log_every=25, save_every=50, eval_every=0)
    config.update(batch_size=8, crop_size=24, num_threads=2)
