"""The paper's claims at small scale: all studies of `configs/compare.py`, one by one.

Draws a small world (two objects of four shapes and colours; half of the pictures are
crests, which only documents tell apart), makes shards of it, and runs the studies on it,
or does so on a folder of one's own pictures. Three seeds each; a training run is one to
two minutes of one core. Start the same command again to continue; a table stands in
`<study>/compare.txt` as soon as its first seed is done.

`parts_of` takes tokenizer, image tokenizer and bi-encoder of a finished quickstart
instead of training them anew.

Usage:
    cm3leon --config configs/studies.py --workdir runs/studies \
        --config.parts_of=runs/quickstart
    cm3leon --config configs/studies.py --workdir runs/my-studies \
        --config.data=examples/pictograms
    cm3leon --config configs/studies.py:debug --workdir runs/debug-studies
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, variants=("quick", "debug"))
    config = ml_collections.ConfigDict()
    config.job = "studies"
    config.preset = arg["variant"]
    config.data = ""  # a folder of captioned pictures; empty: the small world
    config.parts_of = ""  # folder of a quickstart whose tokenizers are taken
    config.studies = ("retrieval", "masking", "sizes", "tuning", "guidance", "samples")
    # Of the stages `scenes` and `shards`, what the small world has of its own.
    config.scenes = dict(
        world=dict(
            shapes=("circle", "square", "triangle", "cross"),
            colours=("red", "green", "blue", "yellow"),
            wall_colours=("white", "gray", "tan", "mint"),
            max_objects=2,
            num_held_out_pairs=0,
            held_out_prob=0.0,
            num_emblems=1_334,
        ),
        rows=dict(
            num_train=8_000,
            num_validation=400,
            num_test=600,
            emblem_share=0.5,
            test_emblem_share=0.5,
            edit_share=0.5,
        ),
    )
    config.shards = dict(tokenise=dict(pair_long_share=0.0))
    if arg["variant"] == "debug":
        config.scenes.world.num_emblems = 24
        config.scenes.rows.update(num_train=192, num_validation=24, num_test=48)
    return config
