"""How a training run goes: a line a host, from the heartbeats in its folder.

Ends with exit code 6 if a host is silent or stalled.

Usage:
    cm3leon --config configs/status.py --workdir runs/quickstart/pretrain
"""

import ml_collections

from configs import common


def get_config(arg=None):
    common.parse_arg(arg)  # there are none
    config = ml_collections.ConfigDict()
    config.job = "status"
    config.silent_seconds = 300.0  # without a heartbeat until a host counts as silent
    return config
