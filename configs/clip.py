"""The bi-encoder: CLIP's towers trained on one's own pairs of picture and caption.

It finds the documents that are put before a document, and picks the best of several
drawings. The paper takes OpenAI's ViT-B/32; the default here has its shape. `quick`
trains small towers in about half a minute on two cores; they find a caption among a
hundred for most held-out scenes, and the documents of names that they never saw.

Usage:
    cm3leon --config configs/clip.py --workdir runs/clip \
        --config.pictures.folder=runs/scenes --config.tokenizer=runs/tokenizer
    cm3leon --config configs/clip.py:quick --workdir runs/quickstart/clip ...
    cm3leon --config configs/clip.py:quick,pictures --workdir runs/mine/clip ...
    cm3leon --config configs/clip.py:full --workdir runs/full/clip ...
    cm3leon --config configs/clip.py:debug --workdir runs/debug/clip ...
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False, pictures=False)
    small = arg["quick"] or arg["debug"] or arg["full"]
    config = ml_collections.ConfigDict()
    config.job = "clip"
    config.pictures = dict(folder="")  # an imagefolder, or one a split
    config.splits = common.splits(small)  # where the folder has no split folders
    config.tokenizer = ""  # what the job `tokenizer` wrote
    config.model = _small() if small else _vit_b32()
    config.train = dict(
        num_steps=180 if small else 20_000,
        batch_size=128 if small else 4_096,  # pairs
        peak_lr=1e-3 if small else 5e-4,
        warmup_steps=20 if small else 2_000,
        weight_decay=0.05 if small else 0.2,
        clip_norm=1.0,
        piece_drop_prob=0.1,  # of each text
        patch_drop_prob=0.0 if small else 0.2,  # of each picture
        text_weight=4.0,  # of telling texts apart by their rare pieces; CLIP has 0
        text_logit_scale=30.0,
        rare_share=0.008,  # of texts: pieces of more are seldom kept in the second view
        seed=0,
    )
    config.loop = dict(log_every=20, save_every=100 if small else 1_000)  # steps
    config.num_threads = 2 if small else 16  # decoding pictures
    config.num_cpu_devices = 0  # devices that a CPU pretends to be; 0 for one
    if arg["pictures"] and small:
        # A thousand pictures are soon known by heart: show half of each at a time.
        config.train.update(
            num_steps=150, piece_drop_prob=0.2, patch_drop_prob=0.5, text_weight=0.5
        )
    if arg["full"]:
        config.train.num_steps = 350
    if arg["debug"]:
        config.train.update(num_steps=4, batch_size=16, warmup_steps=2)
        config.splits = dict(num_validation=4, num_test=8)
    return config


def _small():
    tower = dict(num_layers=2, model_dim=64, num_heads=2, mlp_dim=256)
    return dict(
        image_size=64,  # pixels
        patch_size=16,
        vision=dict(tower),
        text=dict(tower),
        max_length=64,  # text pieces, begin and end included
        embed_dim=128,
    )


def _vit_b32():
    return dict(
        image_size=224,
        patch_size=32,
        vision=dict(num_layers=12, model_dim=768, num_heads=12, mlp_dim=3_072),
        text=dict(num_layers=12, model_dim=512, num_heads=8, mlp_dim=2_048),
        max_length=77,
        embed_dim=512,
    )
