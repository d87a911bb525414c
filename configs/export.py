"""A trained model with its tokenizers in one folder, for sharing and for `api.load`.

Usage:
    cm3leon --config configs/export.py --workdir runs/model \
        --config.source=runs/quickstart
"""

import ml_collections

from configs import common


def get_config(arg=None):
    common.parse_arg(arg, debug=False)
    config = ml_collections.ConfigDict()
    config.job = "export"
    config.source = ""  # folder of a training job or of a quickstart
    config.dtype = "float32"  # of the weights in the file, or "bfloat16"
    config.licence = ""  # of the weights, kept in export.json
    return config
