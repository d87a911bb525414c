"""The whole path on one CPU: data, tokenizers, retrieval, training, drawing, numbers.

Runs the public jobs one after another, each by the command that it prints. `quick`
(the default) takes about a quarter of an hour on two cores; `full` takes hours and is for
results worth keeping; `debug` takes two minutes and is for testing the path. Start the
same command again to continue.

Usage:
    cm3leon --config configs/quickstart.py --workdir runs/quickstart
    cm3leon --config configs/quickstart.py --workdir runs/pictograms \
        --config.data=examples/pictograms
    cm3leon --config configs/quickstart.py:full --workdir runs/full
    cm3leon --config configs/quickstart.py:debug --workdir runs/debug
"""

import ml_collections

from configs import common

PRESETS = ("quick", "full", "debug")


def get_config(arg=None):
    arg = common.parse_arg(arg, variants=PRESETS)
    config = ml_collections.ConfigDict()
    config.job = "quickstart"
    config.preset = arg["variant"]  # the argument that every stage's config gets
    # A folder of captioned pictures, or empty for the built-in scenes.
    config.data = ""
    return config
