"""What a pretraining run needs and costs on a TPU pod, without having the pod.

Compiles the real step, with its sharding and kernels, for a named topology on any CPU
machine (extra `tpu`: libtpu), and writes `plan.json`: memory a device, bytes by kind of
collective, an estimate of step time, days and chip-hours, whether it fits, and if it
does not, which setting would; and the hours that 100M pictures take to be tokenised,
embedded, searched for neighbours and joined. One to four minutes a compilation on two cores.

Topologies count chips: v4, v5e, v5p, v6e; `v5p-128`, a product's name, is v5p:4x4x4.

`image_head` plans `configs/sft.py:chameleon-7b,image_head`.

Usage:
    cm3leon --config configs/plan.py:7b,topology=v5e:16x16 --workdir runs/plan
    cm3leon --config configs/plan.py:chameleon-7b,topology=v5p:4x4x4 --workdir runs/plan
    cm3leon --config configs/plan.py:760m,topology=v4:4x4x4 --workdir runs/plan-760m \
        --config.run.model.remat=full --config.run.step.num_microbatches=4
"""

import ml_collections

from configs import common, pretrain, sft, vqgan


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        variants=("350m", "760m", "7b", "chameleon-7b"),
        topology="v5e:16x16",
        debug=False,
        image_head=False,
    )
    config = ml_collections.ConfigDict()
    config.job = "plan"
    config.topology = arg["topology"]
    # The run that is planned: everything that `configs/pretrain.py` sets.
    size = arg["variant"] + (",debug" if arg["debug"] else "")
    config.run = pretrain.get_config(size)
    if arg["image_head"]:
        config.run = sft.get_config(f"{size},image_head")
    # Settings tried when the run does not fit: estimated all, compiled the fastest.
    config.search = dict(
        max_compiles=2,
        remats=("none", "dots", "full"),
        tensors=(1, 2, 4, 8),  # devices that share the width
    )
    # Pictures and captions made ready for the run, on the same pod.
    config.corpus = dict(
        num_pictures=100_000_000,
        image_tokenizer=vqgan.get_config("make_a_scene").model,
        embedder="vit_b32",
        pictures_per_core=150.0,  # a second: read, decoded, resized; benchmarks/shards.py
        cores_per_chip=14,  # of its host; v5e: 112 threads for four chips
        disk_bandwidth=1e9,  # bytes/s of a host, of reading and of writing
        chips_per_host=4,
        convolution_share=0.4,  # of the peak; assumed, not measured
        search_share=0.5,  # of the peak, with the best kept; assumed, not measured
    )
    return config
