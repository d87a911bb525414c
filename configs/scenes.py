"""The built-in picture world, drawn into a folder (a Hugging Face imagefolder).

The rich world by default. `quick` is the world of the quickstart, `full` the same with
more rows, `debug` with a few. The 10,720
rows of `quick` took 5 s on two cores.

Usage:
    cm3leon --config configs/scenes.py --workdir runs/scenes
    cm3leon --config configs/scenes.py:quick --workdir runs/quickstart/scenes
    cm3leon --config configs/scenes.py:full --workdir runs/full/scenes
    cm3leon --config configs/scenes.py:debug --workdir runs/debug/scenes
    cm3leon --config configs/scenes.py --workdir runs/many --config.rows.num_train=1000000
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, variants=("rich", "quick", "full", "debug"))
    variant = arg["variant"]
    config = ml_collections.ConfigDict()
    config.job = "scenes"
    config.world = _rich_world() if variant == "rich" else _quick_world()
    config.rows = dict(
        num_train=100_000,
        num_validation=2_000,
        num_test=3_000,  # prompts for measured emblems among them
        emblem_share=0.25,  # of train and validation rows, as far as emblems last
        test_emblem_share=0.35,  # prompts for emblems that only the bank shows
        num_questions=4,
        edit_share=0.3,  # of scenes
        map_share=0.15,  # of rows: segmentation, edges, scribble
        seed=0,
    )
    if variant == "full":
        config.rows.update(num_train=60_000, emblem_share=0.3)
        config.world.num_emblems = 6_000
    elif variant == "quick":
        config.rows.update(num_train=9_000, num_validation=500, num_test=1_000)
        config.rows.emblem_share = 0.3
    elif variant == "debug":
        config.rows.update(num_train=192, num_validation=24, num_test=48)
        config.world.update(num_emblems=24, num_measured_emblems=8)
    return config


def _rich_world():
    return dict(
        image_size=64,  # pixels
        grid_size=3,  # places a side
        shapes=(
            "circle",
            "square",
            "triangle",
            "cross",
            "ring",
            "diamond",
            "star",
            "heart",
            "moon",
            "arrow",
        ),
        colours=(
            "red",
            "green",
            "blue",
            "yellow",
            "purple",
            "cyan",
            "orange",
            "pink",
            "brown",
            "black",
        ),
        sizes=("small", "medium", "large"),
        radii=(0.54, 0.7, 0.88),  # of half a place
        fills=("solid", "striped", "dotted"),
        backgrounds=("plain", "gradient", "split"),
        background_colours=("white", "gray", "tan", "mint", "lilac"),
        wall_colours=("white", "gray", "tan", "mint", "slate", "lilac"),
        min_objects=1,
        max_objects=4,
        jitter=1,  # pixels
        sign_prob=0.2,
        max_number=999,
        num_held_out_pairs=8,  # of shape and colour, shown by the test split only
        held_out_prob=0.25,
        validation_share=0.1,
        test_share=0.15,
        num_emblems=6_000,
        num_measured_emblems=150,
        train_walls=4,  # of each; validation shows another one of some
        bank_walls=3,  # per measured emblem; the other walls are asked for
        seed=0,
    )


def _quick_world():
    world = _rich_world()
    world.update(
        grid_size=2,
        shapes=("circle", "square", "triangle", "cross", "ring"),
        colours=("red", "green", "blue", "yellow", "purple", "cyan"),
        sizes=("large",),
        radii=(0.75,),
        fills=("solid",),
        backgrounds=("plain",),
        background_colours=("white",),
        wall_colours=("white", "gray", "tan", "mint", "slate"),
        max_objects=3,
        jitter=0,
        sign_prob=0.0,
        num_held_out_pairs=3,
        held_out_prob=0.15,
        # So many that looks are cheaper to copy than to learn; three pictures of each,
        # so that there is a document of the crest to be found, as at test time.
        num_emblems=900,
        train_walls=3,
        num_measured_emblems=110,
        bank_walls=2,
    )
    return world
