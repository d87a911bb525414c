"""Pictures and text -> tokenised documents with their vectors, in shards.

A set of documents for pretraining (`pairs`) and one for each task. `pictures`: the
folder has captions alone, so captioning is the only task. `task`: that file of
cm3leon_jax/tasks instead, or several with `+`, for a public data set that is read for it.
`beam`: as an Apache Beam pipeline instead of by the hosts of a pod.

The folder may hold an imagefolder, pictures with a .txt beside each, tar shards of
img2dataset, parquet with picture bytes, COCO captions, JSONL of interleaved documents,
or a prepared TFDS data set; or a folder of any of these for each split.

Usage:
    cm3leon --config configs/shards.py --workdir runs/shards \
        --config.pictures.folder=runs/scenes --config.tokenizer=runs/tokenizer/text.model \
        --config.image_tokenizer=runs/vqgan --config.embedder=runs/clip
    cm3leon --config configs/shards.py:quick --workdir runs/quickstart/shards ...
    cm3leon --config configs/shards.py:quick,pictures --workdir runs/mine/shards ...
    cm3leon --config configs/shards.py:pictures --workdir /mnt/laion/shards \
        --config.pictures.folder=/mnt/laion/tars --config.vectors=/mnt/laion/clip \
        --config.source.licences="('CC0','CC-BY')" --config.source.source=laion ...
    cm3leon --config configs/shards.py:task=vqa2 --workdir runs/vqa2 \
        --config.pictures.folder=/data/vqa2 --config.source.reader=vqa ...
    cm3leon --config configs/shards.py:beam --config.beam.runner=FlinkRunner \
        --config.beam.options="('--flink_master=host:8081',)" ...
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(
        arg, quick=False, full=False, debug=False, pictures=False, beam=False, task=""
    )
    small = arg["quick"] or arg["debug"] or arg["full"]
    config = ml_collections.ConfigDict()
    config.job = "shards"
    config.pictures = dict(folder="")  # of any format below, or one a split
    config.source = common.source()  # how the folder is read, what of it is taken
    config.splits = common.splits(small)  # where the folder has no split folders
    config.tokenizer = ""  # what the jobs `tokenizer`, `vqgan` and `clip` wrote
    config.image_tokenizer = ""
    config.embedder = ""  # empty: no vectors, and no retrieval
    # CLIP vectors that are there already, as clip-retrieval stores them (.npy); with
    # an embedder too, it makes those that are missing, and the queries'.
    config.vectors = ""
    # Sizes of text and codebook are those of the tokenizers.
    config.vocab = dict(
        control_size=64 if small else 1_024, num_sentinels=32 if small else 512
    )
    config.tokenise = dict(
        tasks=_tasks(small, arg["pictures"]),
        query_drop_prob=0.2,  # CM3Leon, section 2.1
        # Of the pairs, with the long caption: it names what a crest bears.
        pair_long_share=0.15 if small and not arg["pictures"] else 0.0,
        seed=0,
    )
    if arg["task"]:
        config.tokenise.tasks = {name: {} for name in arg["task"].split("+")}
    config.rows_per_shard = 2_048
    config.num_threads = 2 if small else 16  # decoding pictures
    # Devices that a CPU pretends to be, each with pictures of its own; 0: JAX's choice.
    # One a core encodes large pictures faster (docs/benchmarks.md); small ones alike.
    config.num_cpu_devices = 0
    if arg["beam"]:
        config.job = "beam"
        # Its name, and flags of its own; workers see all folders under the same paths.
        config.beam = dict(runner="DirectRunner", options=())
    if arg["debug"]:
        config.rows_per_shard = 32
        config.splits = dict(num_validation=4, num_test=8)
    return config


def _tasks(small, pictures):
    # Few templates where the budget is small: each costs examples to learn.
    tasks = dict(caption=dict(num_templates=1 if small else 4, long_share=0.5))
    if pictures:
        return tasks
    tasks["caption"]["long_share"] = 0.1 if small else 0.5
    return dict(
        **tasks,
        vqa=dict(num_templates=1 if small else 3, max_questions=4),
        edit=dict(),
        layout=dict(coordinates=16 if small else 256, max_boxes=8),
        segmentation=dict(),
        infill=dict(),
    )
