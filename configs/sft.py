"""Multi-task instruction tuning (CM3Leon, arXiv:2309.02591, section 4).

The same job and step as pretraining, on a mixture of tasks, from pretrained weights.
`quick`, `full`, `debug` and `pictures` as in `configs/pretrain.py`. `paper` mixes the
eighteen tasks of its Table 5 alike, with its limits on how often an example is seen, and
a tenth of pretraining documents; each task's shards are a run of `configs/shards.py`, in
the folder that `mixture.folders` names. `task` adds sets of further tasks, joined by `+`.

`chameleon-7b` goes on from the public Chameleon weights. These do not draw: image output
was tuned away. With `image_head` the rows of image codes in the head are trained, all
else stays to the bit, and the model draws again: some minutes on pictures with captions.

Usage:
    cm3leon --config configs/sft.py:7b --workdir /mnt/bucket/sft \
        --config.shards=/mnt/bucket/shards --config.init_from=/mnt/bucket/run
    cm3leon --config configs/sft.py:7b,paper --workdir /mnt/bucket/sft \
        --config.shards=/mnt/bucket/shards --config.init_from=/mnt/bucket/run \
        --config.mixture.folders=coco=/mnt/bucket/coco/coco,vqa2=/mnt/bucket/vqa2/vqa2
    cm3leon --config configs/sft.py:7b,task=vqa2 ...
    cm3leon --config configs/sft.py:chameleon-7b,image_head \
        --workdir /mnt/bucket/repaired --config.shards=/mnt/bucket/chameleon-shards \
        --config.init_from=/mnt/bucket/chameleon
    cm3leon --config configs/sft.py:quick --workdir runs/quickstart/sft \
        --config.shards=runs/quickstart/retrieve \
        --config.init_from=runs/quickstart/pretrain
"""

from configs import common, pretrain

_BATCH_TOKENS = 2_097_152  # the paper's 2M: 512 rows of 4,096
_TOKENS = 30e9
PAPER_TASKS = (  # Table 5, in its order; each a file in cm3leon_jax/tasks
    "edit",
    "writing",
    "layout",
    "edges",
    "segmentation",
    "hed",
    "pose",
    "depth",
    "normals",
    "scribble",
    "coco",
    "flickr30k",
    "paragraph",
    "narratives",
    "vqa2",
    "vizwiz",
    "okvqa",
    "scienceqa",
)


def get_config(arg=None):
    names = dict(quick=False, full=False, debug=False, pictures=False)
    own = dict(paper=False, task="", image_head=False)  # pretraining knows none
    sizes = ("350m", "760m", "7b", "chameleon-7b")
    chosen = common.parse_arg(arg, variants=sizes, **names, **own)
    words = [word for word in (arg or "").split(",") if word.split("=")[0] not in own]
    config = pretrain.get_config(",".join(words))
    config.sets = sets(chosen["pictures"])
    if chosen["paper"]:
        config.sets = dict(pairs=1.0, **dict.fromkeys(PAPER_TASKS, 1.0))
        # Section 4, appendix E.1; that share of pretraining is ours, the paper has none.
        config.mixture.update(limits=(0.3, 3.0), shares="pairs=0.1")
    for name in filter(None, chosen["task"].split("+")):
        config.sets[name] = 1.0
    config.optimizer.update(peak_lr=5e-5, warmup_steps=150)  # Table 4
    if not (chosen["quick"] or chosen["full"] or chosen["debug"]):
        config.loader.batch_size = _BATCH_TOKENS // config.loader.max_length
    # The target of a task is masked and asked for the way it is at test time.
    config.loader.cm3.target_mask_prob = 0.5
    config.loop.update(num_steps=int(_TOKENS // _BATCH_TOKENS), eval_every=500)
    if chosen["quick"] or chosen["full"]:
        config.optimizer.update(peak_lr=2e-3, warmup_steps=50)
        config.loop.update(num_steps=14_000 if chosen["full"] else 3_300)
        # A short budget goes to what is asked for; the paper weighs all ids alike.
        config.loader.cm3.target_mask_prob = 0.9
        config.loader.weights.context = 0.1
    if (chosen["quick"] or chosen["full"]) and not chosen["pictures"]:
        # Answers of one word were a twentieth of the loss, and guessed.
        config.loader.weights.update(retrieved=0.1, target_min=6.0)
    if chosen["pictures"] and (chosen["quick"] or chosen["full"]):
        config.loop.update(num_steps=300 if chosen["full"] else 150, eval_every=50)
    if chosen["debug"]:
        config.optimizer.warmup_steps = 2
        config.loop.update(num_steps=10, eval_every=5)
    if chosen["variant"] == "chameleon-7b":
        config.optimizer.peak_lr = 1e-5  # Chameleon, section 3
    if chosen["image_head"]:
        _image_head(config, chosen["debug"])
    return config


def _image_head(config, is_debug):
    """Plain next-token loss on pairs; one part of the head learns (numbers are ours)."""
    config.sets = dict(pairs=1.0)
    config.loader.cm3.update(target_mask_prob=0.0, rectangle_prob=0.0, span_rate=0.0)
    config.loader.neighbor_probs = (1.0,)
    config.optimizer.update(
        peak_lr=1e-3, weight_decay=0.0, trained=("head_VD",), trained_ids="image"
    )
    if not is_debug:
        config.optimizer.warmup_steps = 20
        config.loader.update(batch_size=64, num_streams=64)
        config.loop.update(num_steps=400, save_every=100, eval_every=100)


def sets(pictures_only):
    """Weights of the sets; a person's own pictures have captions alone."""
    if pictures_only:
        return dict(pairs=1.0, caption=1.0)
    return dict(
        pairs=2.0,
        caption=0.8,
        vqa=6.0,
        edit=2.0,
        layout=0.4,
        segmentation=0.4,
        infill=1.0,
    )
