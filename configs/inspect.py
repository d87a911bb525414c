"""Shards and the first training batch as pages, before chips are spent.

The loader's numbers are those of `configs/pretrain.py` (or, with `sft`, of
`configs/sft.py`) with the same argument: what is shown is what that run will read.

Usage:
    cm3leon --config configs/inspect.py --workdir runs/inspect \
        --config.shards=runs/retrieve
    cm3leon --config configs/inspect.py:quick --workdir runs/quickstart/inspect \
        --config.shards=runs/quickstart/retrieve
    cm3leon --config configs/inspect.py:quick,sft --workdir runs/inspect-sft ...
"""

import ml_collections

from configs import common, pretrain, sft


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False, sft=False)
    training = sft if arg["sft"] else pretrain
    flags = ",".join(name for name in ("quick", "full", "debug") if arg[name])
    numbers = training.get_config(flags or None)
    config = ml_collections.ConfigDict()
    config.job = "inspect"
    config.shards = ""  # the folder that `shards` or `retrieve` wrote
    config.tokenizer = ""  # empty: those that the shards were made with
    config.image_tokenizer = ""
    # Read all shards and compare their digests: minutes a terabyte, as fast as the disk.
    config.verify = True
    config.set = "pairs"  # whose documents are shown
    config.split = "train"
    config.num_documents = 24  # of the split, evenly spread
    config.num_rows = 4  # of the batch
    config.sets = numbers.sets  # the mixture that batches come from
    config.neighbor_sets = numbers.neighbor_sets
    config.loader = numbers.loader
    config.num_cpu_devices = 0  # devices that a CPU pretends to be; 0 for one
    return config
