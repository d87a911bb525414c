"""Variants x seeds of a training run at equal tokens, training FLOPs or documents.

Studies of the paper's claims at small scale, by name:

    retrieval  documents in training rows or not, at equal FLOPs and at equal documents
    masking    spans within segments, or across <break>
    sizes      three models at equal FLOPs: loss against compute
    tuning     each task before and after, by what is masked and what it weighs
    guidance   scales of guidance, and CD-K, of models that are there
    samples    best of n: top-p, CD-K, half of each, of models that are there

The base is `configs/pretrain.py:quick` (about five minutes a run on two cores), or
`configs/sft.py:quick` for `tuning`. `small` takes a narrower model and fewer steps,
which one core trains in a minute or two; `debug` makes it seconds. `pictures` is for a
folder of one's own, which has captions alone. `base` is the variant that studies share.
Any field may be a variant: edit `variants`, or override it.

Usage:
    cm3leon --config configs/compare.py:retrieval,small --workdir runs/studies/retrieval \
        --config.runs=runs/studies/models --config.base.shards=runs/quickstart/retrieve \
        --config.evaluate.pictures.folder=runs/quickstart/scenes
    cm3leon --config configs/compare.py:masking,small ...
    cm3leon --config configs/compare.py:sizes,small ...
    cm3leon --config configs/compare.py:tuning,small --workdir runs/studies/tuning \
        --config.base.init_from='runs/studies/models/base/seed-{seed}' ...
    cm3leon --config configs/compare.py:guidance --workdir runs/studies/guidance \
        --config.model='runs/studies/models/base/seed-{seed}' \
        --config.evaluate.pictures.folder=runs/quickstart/scenes
    cm3leon --config configs/compare.py:samples ...
    cm3leon --config configs/compare.py:retrieval,small,pictures ...
"""

import ml_collections

from configs import common, evaluate, pretrain, sft

_CD_K = ("contrast_k=4", "contrast_alpha=0.3")
_CD_1 = ("contrast_k=1", "contrast_alpha=0.3")


def _drawn(name, *settings):
    return tuple(f"{name}.{setting}" for setting in settings)


def _halves(varied, mixed):
    return _drawn("varied", *varied) + _drawn("mixed", *mixed)


# The first is what the others are compared with; a variant is overrides of the base.
_STUDIES = {
    "retrieval": dict(
        base=(),  # 0, 1 or 2 documents in front, a third each
        one=("loader.neighbor_probs=(0.35, 0.65)",),
        none=("loader.neighbor_probs=(1.0,)",),
        none_fewer=("loader.neighbor_probs=(1.0,)",),
    ),
    "masking": dict(
        base=(),
        across=("loader.cm3.rule=across",),
    ),
    "sizes": dict(base=(), small=(), large=()),
    "tuning": dict(
        target=(),  # masked in nine of ten examples
        before=("loop.num_steps=0",),
        uniform=("loader.cm3.target_mask_prob=0.0",),
        raised=("loader.weights.target_min=6.0",),
    ),
    "guidance": dict(
        plain=(),
        greedy=("drawing.temperature=0.0",),
        **{
            f"guidance_{scale}".replace(".", "_"): (f"drawing.guidance={scale}",)
            for scale in (1.5, 2, 3, 5)
        },
        cd_k=_drawn("drawing", *_CD_K),
        cd_k_soft=_drawn("drawing", *_CD_K, "amateur_temperature=4.0"),
        cd_2=_drawn("drawing", "contrast_k=2", "contrast_alpha=0.3"),
        cd_1=_drawn("drawing", *_CD_1),  # the published rule
    ),
    "samples": dict(
        top_p=_halves(("top_p=0.9",), ("top_p=0.9",)),
        cd_k=_halves(_CD_K, _CD_K),
        cd_1=_halves(_CD_1, _CD_1),
        half=_halves(("top_p=0.9",), _CD_K),
        half_1=_halves(("top_p=0.9",), _CD_1),
    ),
}
# What is measured on the built-in scenes; a person's own pictures have one part.
_PARTS = {
    "retrieval": ("drawings", "emblems"),
    "masking": ("drawings", "captions", "infills", "text_infills"),
    "sizes": ("drawings",),
    "tuning": (
        "drawings",
        "captions",
        "answers",
        "edits",
        "infills",
        "layouts",
        "segmentations",
        "text_infills",
    ),
    "guidance": ("drawings", "emblems"),
    "samples": ("samples",),
}
_EQUAL_IN = {"retrieval": dict(none_fewer="documents")}
_OF_MODELS = ("guidance", "samples")
# Layers, width, heads of 32 wide; the base's stand between them.
_SIZES = {"quick": ((2, 64), (6, 192)), "small": ((2, 64), (4, 128))}


def get_config(arg=None):
    arg = common.parse_arg(
        arg, variants=tuple(_STUDIES), small=False, debug=False, pictures=False
    )
    name = arg["variant"]
    config = ml_collections.ConfigDict()
    config.job = "compare"
    config.title = f"Variants: {name}"
    # The training config that variants change; its steps are the first variant's.
    config.base = _base(arg)
    config.variants = dict(_STUDIES[name])
    if name == "sizes":
        config.variants.update(_sizes("small" if arg["small"] else "quick"))
    config.order = tuple(_STUDIES[name])  # the first is the one compared with
    config.equal = "flops" if name == "sizes" else "tokens"  # steps, documents
    config.equal_in = dict(_EQUAL_IN.get(name, {}))  # of single variants
    config.seeds = (0, 1) if arg["debug"] else (0, 1, 2)
    config.runs = (
        ""  # folder of the runs, which studies may share; empty: the workdir's
    )
    # Models that are there, by seed; nothing is trained then.
    config.model = "" if name not in _OF_MODELS else "runs/{seed}"
    # What every model is measured by; without a folder of pictures validation alone.
    config.evaluate = evaluate.get_config("debug" if arg["debug"] else "quick")
    config.evaluate.scenes.parts = _PARTS[name]
    if arg["small"]:
        config.evaluate.scenes.num_cases = 200
        config.evaluate.own.num_cases = 200
    if name in _OF_MODELS:
        config.evaluate.scenes.num_cases = 100 if name == "samples" else 150
        for drawn in ("drawing", "varied", "mixed"):
            config.evaluate[drawn].temperature = 1.0
    return config


def _base(arg):
    words = "350m,debug" if arg["debug"] else "quick"
    words += ",pictures" if arg["pictures"] else ""
    base = (sft if arg["variant"] == "tuning" else pretrain).get_config(words)
    if arg["variant"] == "tuning":
        # As the paper tunes: all ids weigh alike, spans anywhere.
        base.loader.weights.update(context=1.0, retrieved=1.0, target_min=0.0)
    else:
        base.loader.cm3.rectangle_prob = 0.0  # likewise
        base.evaluation.neighbors = (0, 1, 2)
    if arg["small"]:
        _small(base)
        if arg["pictures"]:  # some thousand are soon known by heart
            base.loop.update(num_steps=300, save_every=300, eval_every=100)
        base.optimizer.peak_lr = 2e-3 if arg["variant"] == "tuning" else 4e-3
    return base


def _small(base):
    """Rows and steps that make a run of about a minute on one core."""
    base.num_cpu_devices = 1
    base.model.update(num_layers=3, model_dim=96, num_heads=3, mlp_dim=384)
    base.loader.update(batch_size=3, num_streams=1)
    base.optimizer.warmup_steps = 50
    base.loop.update(num_steps=1_200, save_every=1_200, eval_every=300, keep_last=1)
    base.evaluation.num_documents = 128


def _sizes(scale):
    return {
        name: (
            f"model.num_layers={layers}",
            f"model.model_dim={width}",
            f"model.mlp_dim={4 * width}",
            f"model.num_heads={width // 32}",
            "model.head_dim=32",
        )
        for name, (layers, width) in zip(("small", "large"), _SIZES[scale], strict=True)
    }
