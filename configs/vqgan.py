"""The image tokenizer: a VQGAN trained on one's own pictures.

Shapes: `make_a_scene` (256 pixels to 1,024 of 8,192 codes; CM3Leon's), `chameleon` (512
pixels to 1,024 of 8,192), and of 16,384 codes of 8 numbers, looked up by direction,
`janus` (384 pixels to 576), `llamagen` (256 to 256) and `llamagen_ds8` (256 to 1,024).
`quick` is for 64 pixels and one CPU: each of 16 codes is made from a patch of 16 pixels
alone, so that what stands beside it does not change it, and a small transformer can
learn what it means. `codes` may be 64.

Usage:
    cm3leon --config configs/vqgan.py --workdir runs/vqgan \
        --config.pictures.folder=runs/pictures
    cm3leon --config configs/vqgan.py:chameleon --workdir runs/vqgan512 ...
    cm3leon --config configs/vqgan.py:janus --workdir runs/vqgan384 ...
    cm3leon --config configs/vqgan.py:llamagen --workdir runs/vqgan16 ...
    cm3leon --config configs/vqgan.py:llamagen_ds8 --workdir runs/vqgan8 ...
    cm3leon --config configs/vqgan.py:quick --workdir runs/quickstart/vqgan ...
    cm3leon --config configs/vqgan.py:quick,pictures --workdir runs/mine/vqgan ...
    cm3leon --config configs/vqgan.py:quick,codes=64 --workdir runs/fine/vqgan ...
    cm3leon --config configs/vqgan.py:full --workdir runs/full/vqgan ...
    cm3leon --config configs/vqgan.py:debug --workdir runs/debug/vqgan ...
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        variants=("make_a_scene", "chameleon", "janus", "llamagen", "llamagen_ds8"),
        quick=False,
        full=False,
        debug=False,
        pictures=False,
        codes=16,
    )
    small = arg["quick"] or arg["full"] or arg["debug"]
    config = ml_collections.ConfigDict()
    config.job = "vqgan"
    config.pictures = dict(
        folder="",  # an imagefolder, or one a split
        min_side=8,  # pixels; smaller pictures are refused
        # Columns {"file_name": ...} whose pictures are read too.
        columns=("edit", "segmentation", "edges", "scribble"),
    )
    config.splits = common.splits(small)  # where the folder has no split folders
    config.start_from = ""  # folder of an image tokenizer whose weights are the first
    config.model = _SHAPES[arg["variant"]]()
    config.loss = dict(
        l1_weight=1.0,
        l2_weight=0.0,
        gradient_pyramid_weight=1.0,  # stands in for a perceptual loss
        lpips_weight=0.0,  # of LPIPS; then gradient_pyramid_weight=0 is meant
        crop_size=64,  # pixels a side that boxes of objects are resized to
        codebook_weight=1.0,
        beta=0.25,  # taming-transformers
        beta_legacy=False,
        adversarial_weight=0.8,
        adversarial_start=250_001,  # steps
        adversarial_ramp=1_000,  # steps
    )
    config.lpips = ()  # files of LPIPS' weights: VGG16 and heads, in one or two
    config.features = dict(  # of the Frechet distance; without, statistics of blocks
        inception="",  # a file with the FID's weights
        embedder="",  # folder of a bi-encoder
    )
    config.objects = dict(  # boxes that count more (Make-A-Scene, section 3.2)
        object_weight=0.0,
        face_weight=0.0,
        face_names=("face",),
        max_boxes=8,  # a picture
        min_side=0.05,  # of the picture
    )
    config.guard = dict(  # ends a run that has gone wrong
        min_perplexity=8.0,  # codes; 0 for never
        max_rise=3.0,  # of the reconstruction terms over their least; 0 for never
        after_steps=5_000,
    )
    config.codebook = dict(
        use_mean=False,
        decay=0.99,  # of the counts, a step
        dead_share=0.02,
        revive_until=0.8,  # share of the steps
    )
    config.discriminator = dict(base_channels=64, num_layers=3, num_groups=8)
    config.optimizer = dict(
        peak_lr=4.5e-5,
        discriminator_lr=4.5e-5,
        warmup_steps=5_000,
        final_share=0.1,
        beta1=0.5,
        beta2=0.9,
        clip_norm=1.0,
        average_decay=0.999,
    )
    config.loop = dict(
        num_steps=800_000, log_every=100, save_every=5_000, eval_every=5_000
    )
    config.batch_size = 192  # pictures, over all devices
    config.num_evaluated = 2_000  # validation pictures
    config.num_threads = 16  # decoding pictures
    config.num_cpu_devices = 0  # devices that a CPU pretends to be; 0 for one
    config.seed = 0
    if small:
        _make_small(config, arg)
    return config


def _make_small(config, arg):
    config.model = _quick(arg["codes"])
    config.loss.update(l2_weight=1.0, gradient_pyramid_weight=0.0, crop_size=16)
    config.guard.update(min_perplexity=0.0, max_rise=0.0)
    config.loss.adversarial_weight = 0.0  # without a discriminator
    config.codebook.update(use_mean=True, decay=0.95)
    config.optimizer.update(
        peak_lr=1e-2,
        warmup_steps=50,
        final_share=0.02,
        beta1=0.9,
        beta2=0.99,
        average_decay=0.99,
    )
    config.loop.update(num_steps=900, log_every=25, save_every=300, eval_every=0)
    config.batch_size = 32
    config.num_evaluated = 500
    config.num_threads = 2
    if arg["full"]:
        config.loop.update(num_steps=1_800, save_every=600)
        config.optimizer.update(warmup_steps=100)
    if arg["debug"]:
        config.model.update(base_channels=32, latent_channels=16, code_dim=8)
        config.model.codebook_size = 64
        config.loop.update(num_steps=8, log_every=2)
        config.optimizer.warmup_steps = 2
        config.batch_size = 4
        config.splits = dict(num_validation=4, num_test=8)


def _quick(codes):
    sides = {16: 16, 64: 8}
    if codes not in sides:
        raise ValueError(f"codes={codes} must be one of {sorted(sides)}")
    return dict(
        _make_a_scene(),
        image_size=64,
        patch_size=sides[codes],
        base_channels=256,
        multipliers=(1,),
        encoder_kernels=(1,),  # a patch is all that a code sees
        decoder_kernels=(1,),
        num_res_blocks=1,
        attention_sizes=(),
        use_mid_block=False,
        use_mid_attention=False,
        latent_channels=64,
        code_dim=32,
        codebook_size=1_024,
        norm="position",
    )


def _make_a_scene():
    return dict(
        image_size=256,  # pixels
        patch_size=1,  # pixels folded into channels
        base_channels=128,
        multipliers=(1, 1, 2, 4),
        encoder_kernels=(3, 3, 3, 3),
        decoder_kernels=(3, 3, 3, 3),
        num_res_blocks=2,
        attention_sizes=(32,),  # pixels a side
        use_mid_block=True,
        use_mid_attention=True,
        latent_channels=256,
        code_dim=256,
        codebook_size=8_192,
        use_l2_norm=False,
        norm="group",
        num_groups=32,
        norm_epsilon=1e-6,
    )


def _chameleon():
    return dict(
        _make_a_scene(),
        image_size=512,
        multipliers=(1, 1, 2, 2, 4),
        encoder_kernels=(3, 3, 3, 3, 3),
        decoder_kernels=(3, 3, 3, 3, 3),
        attention_sizes=(),
    )


def _janus():
    # transformers, JanusVQVAEConfig: attention at the lowest level of both halves.
    return dict(
        _chameleon(),
        image_size=384,
        attention_sizes=(24,),
        code_dim=8,
        codebook_size=16_384,
        use_l2_norm=True,
    )


def _llamagen():
    # Janus's network, for the pictures that it was published with (VQ-16).
    return dict(_janus(), image_size=256, attention_sizes=(16,))


def _llamagen_ds8():
    return dict(
        _llamagen(),
        multipliers=(1, 2, 2, 4),  # VQ-8
        encoder_kernels=(3, 3, 3, 3),
        decoder_kernels=(3, 3, 3, 3),
        attention_sizes=(32,),
    )


_SHAPES = {
    "make_a_scene": _make_a_scene,
    "chameleon": _chameleon,
    "janus": _janus,
    "llamagen": _llamagen,
    "llamagen_ds8": _llamagen_ds8,
}
