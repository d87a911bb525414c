"""Variants x seeds of a training run at equal tokens or equal training FLOPs.

Studies of the paper's claims at small scale, by name: `retrieval` (documents in training
rows or not), `masking` (causal, CM3, rectangles), `sizes` (three models at equal FLOPs),
`tuning` (what is masked of a task). The base is `configs/pretrain.py:quick` (about five
minutes a run on two cores), or `configs/sft.py:quick` for `tuning`; `debug` makes it
seconds. Any field may be a variant: edit `variants`, or override it.

Usage:
    cm3leon --config configs/compare.py:retrieval --workdir runs/compare-retrieval \
        --config.base.shards=runs/quickstart/retrieve
    cm3leon --config configs/compare.py:sizes,debug --workdir runs/compare-debug \
        --config.base.shards=runs/quickstart/retrieve
    cm3leon --config configs/compare.py:masking ...
    cm3leon --config configs/compare.py:tuning --config.base.init_from=... ...
"""

import ml_collections

from configs import common, pretrain, sft

# The first is what the others are compared with; a variant is overrides of the base.
_STUDIES = {
    "retrieval": dict(
        none=("loader.neighbor_probs=(1.0,)",),
        one=("loader.neighbor_probs=(0.5, 0.5)",),
        two=("loader.neighbor_probs=(0.35, 0.3, 0.35)",),
    ),
    "masking": dict(
        causal=("loader.cm3.span_rate=0.0", "loader.cm3.rectangle_prob=0.0"),
        cm3=("loader.cm3.span_rate=1.0", "loader.cm3.rectangle_prob=0.0"),
        rectangles=("loader.cm3.span_rate=1.0", "loader.cm3.rectangle_prob=0.2"),
    ),
    "sizes": dict(
        small=("model.num_layers=2", "model.model_dim=64", "model.mlp_dim=256"),
        medium=("model.num_layers=4",),
        large=("model.num_layers=6", "model.model_dim=192", "model.mlp_dim=768"),
    ),
    "tuning": dict(
        uniform=("loader.cm3.target_mask_prob=0.0",),
        target=("loader.cm3.target_mask_prob=0.5",),
        answers=("loader.cm3.target_mask_prob=0.9", "loader.weights.context=0.0"),
    ),
}
_HEADS = {"small": 2, "medium": 4, "large": 6}


def get_config(arg=None):
    arg = common.parse_arg(arg, variants=tuple(_STUDIES), debug=False)
    name = arg["variant"]
    config = ml_collections.ConfigDict()
    config.job = "compare"
    config.title = f"Variants: {name}"
    module = sft if name == "tuning" else pretrain
    # The training config that variants change; its steps are the first variant's.
    config.base = module.get_config("350m,debug" if arg["debug"] else "quick")
    config.variants = dict(_STUDIES[name])
    config.order = tuple(_STUDIES[name])  # the first is the one compared with
    config.equal = "flops" if name == "sizes" else "tokens"  # or steps
    config.seeds = (0, 1) if arg["debug"] else (0, 1, 2)
    # A config of the job `evaluate`, run on every model; empty: validation alone.
    config.evaluate = dict()
    if name == "sizes":
        config.variants = {
            size: (*changes, f"model.num_heads={_HEADS[size]}", "model.head_dim=32")
            for size, changes in _STUDIES["sizes"].items()
        }
    return config
