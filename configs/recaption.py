"""Long captions for a set of shards, written by a checkpoint: a new set of shards.

The new set lies in `recaptioned/` of the folder, says `source: synthetic` and by which
checkpoint, and is mixed by weight with the originals:

    --config.mixture.folders=recaptioned=runs/recaptioned/recaptioned

with `recaptioned=1.0` among the sets of a training config.

Usage:
    cm3leon --config configs/recaption.py --workdir runs/recaptioned \
        --config.model=runs/sft --config.source=runs/shards/pairs
    cm3leon --config configs/recaption.py:debug --workdir runs/debug-recaptioned ...
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, debug=False)
    config = ml_collections.ConfigDict()
    config.job = "recaption"
    config.model = ""  # folder of a training job
    config.source = ""  # a set of shards, made with the model's tokenizers
    config.splits = ("train",)
    config.template = "Generate a long caption for the given image."
    config.num_samples = 4  # captions of which the bi-encoder picks one
    config.max_text = 127  # ids
    config.rows_per_shard = 2_048  # of the new set; one is written at a time
    config.seed = 0
    config.sampling = dict(
        temperature=0.8,
        top_k=0,  # 0 keeps all
        top_p=0.9,
        guidance=1.0,  # text has none
        image_guidance=1.0,
        contrast_k=0,
        contrast_alpha=0.5,
        amateur_temperature=1.0,
        rule="",  # a file of cm3leon_jax/decoding/rules
    )
    config.shapes = dict(  # padded shapes; each is compiled once
        rows=(64,), prompt_lengths=(256, 1_280), steps=(128,), num_pieces=(8,)
    )
    if arg["debug"]:
        config.update(num_samples=2, max_text=31, rows_per_shard=16)
        config.shapes.update(rows=(16,), prompt_lengths=(96, 256), steps=(32,))
    return config
