"""The neighbours of every document, joined into the shards.

Two by the document's picture and two by its text, none nearer than 0.9 (CM3Leon,
arXiv:2309.02591, section 2.1). An exact search: 10,000 documents take seconds. The same
line on every host of a pod shares the work; the result is that of one host.

Usage:
    cm3leon --config configs/retrieve.py --workdir runs/retrieve \
        --config.shards=runs/shards
    cm3leon --config configs/retrieve.py:quick --workdir runs/quickstart/retrieve \
        --config.shards=runs/quickstart/shards
    cm3leon --config configs/retrieve.py --workdir runs/retrieve \
        --config.shards=runs/shards --config.neighbors=lists.jsonl
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False, pictures=False)
    config = ml_collections.ConfigDict()
    config.job = "retrieve"
    config.shards = ""  # the folder that the job `shards` wrote
    # Splits that make up the memory bank; those that the shards lack are left out.
    config.bank = ("train", "bank")
    config.train_bank = ("train",)  # what training documents may find
    config.strategy = dict(
        num_by_image=2,
        num_by_text=2,
        num_candidates=64,  # looked at for each
        max_similarity=0.9,  # to the query and to each other
        min_score=-1.0,
        prefer_multimodal=True,
        rule="",  # a file of cm3leon_jax/retrieval/rules that orders candidates
    )
    config.index = dict(
        # "pod": the vectors over the devices of all hosts, for banks that no one host
        # holds; "faiss": on the CPU, with the extra of that name.
        backend="jax",
        chunk_size=8_192,  # bank rows scored at a time
        dtype="float32",  # or "bfloat16": half the memory, not quite exact
        approximate_recall=0.0,  # of the best, on TPU; 0: all of them
    )
    # Near-duplicates of these documents are kept out of the bank, and counted.
    config.evaluation = dict(
        splits=("validation", "test"),  # of the same shards
        sets=(),  # folders of other sets, all splits of each
        max_similarity=0.9,  # document vector to document vector; 1: nothing is out
    )
    config.neighbors = ""  # ready-made lists (data/lists.py) instead of a search
    # "inline": the neighbours' tokens beside each document, 5 times the tokens on disk.
    # "ids": their numbers alone; the loader reads each from the bank at random.
    config.join = "inline"
    if arg["quick"] or arg["full"]:
        # A bi-encoder of seconds puts all crests within 0.95 of each other, and two
        # pictures of one crest within 0.99: 0.9 would skip the very documents that
        # retrieval is for. The built-in world draws no scene twice.
        config.strategy.max_similarity = 1.0
        config.evaluation.max_similarity = 1.0
    if arg["pictures"]:
        config.strategy.max_similarity = 0.98
    config.rows_per_shard = 256 if arg["debug"] else 2_048
    return config
