"""Looks through a folder of captioned pictures and lists what cannot be used.

About a thousand small pictures a second.

Usage:
    cm3leon --config configs/check.py --workdir runs/check \
        --config.pictures.folder=examples/pictograms
    cm3leon --config configs/check.py:quick --workdir runs/check \
        --config.pictures.folder=examples/pictograms
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False, pictures=False)
    small = arg["quick"] or arg["full"] or arg["debug"]
    config = ml_collections.ConfigDict()
    config.job = "check"
    config.pictures = dict(
        folder="",  # of any format that `source.reader` names
        image_size=64 if small else 256,  # pixels a side
    )
    config.source = common.source()
    config.splits = common.splits(small)
    # Fewest usable pictures a split: the evaluation's hundred captions need a hundred.
    config.minimum = dict(train=100, test=100)
    if arg["debug"]:
        config.minimum = dict(train=1, test=1)
        config.splits = dict(num_validation=4, num_test=8)
    return config
