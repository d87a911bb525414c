"""Retrieval-augmented CM3 pretraining (CM3Leon, arXiv:2309.02591, section 2).

Sizes and learning rates of the paper's Table 3: batches of 8M tokens, 1,500 warm-up
steps, 1.4T tokens (350m), 1.9T (760m), 2.4T (7b). `quick` is the quickstart's model
(about five minutes on two cores), `full` the same with more steps, `debug` a minute.
With `pictures` the shards hold pairs only. `whole` never cuts a picture, in rows of
4,224 tokens. `synthetic` runs the real step on made-up
rows, some minutes after it is compiled, and compares its time with `configs/plan.py`'s
estimate: no shards, no checkpoints. `chameleon-7b` goes on from the public Chameleon
weights, which are for research only: `configs/convert.py:from_hf` reads them.

Usage:
    cm3leon --config configs/pretrain.py:7b --workdir /mnt/bucket/run \
        --config.shards=/mnt/bucket/shards
    cm3leon --config configs/pretrain.py:7b,whole --workdir /mnt/bucket/run \
        --config.shards=/mnt/bucket/shards
    cm3leon --config configs/pretrain.py:chameleon-7b --workdir /mnt/bucket/more \
        --config.shards=/mnt/bucket/chameleon-shards \
        --config.init_from=/mnt/bucket/chameleon
    cm3leon --config configs/pretrain.py:350m,debug --workdir runs/debug \
        --config.shards=runs/debug-shards
    cm3leon --config configs/pretrain.py:7b,synthetic --workdir /mnt/bucket/rehearsal
    cm3leon --config configs/pretrain.py:quick --workdir runs/quickstart/pretrain \
        --config.shards=runs/quickstart/retrieve
"""

import ml_collections

from configs import common

# CM3Leon, Table 3; heads from OPT's launcher in metaseq.
_SIZES = {
    "350m": dict(layers=24, dim=1024, heads=16, peak_lr=6e-4, tokens=1.4e12),
    "760m": dict(layers=24, dim=1536, heads=16, peak_lr=5e-4, tokens=1.9e12),
    "7b": dict(layers=32, dim=4096, heads=32, peak_lr=1.2e-4, tokens=2.4e12),
    # Chameleon, arXiv:2405.09818, Table 1; rate and tokens are ours, to go on with.
    "chameleon-7b": dict(layers=32, dim=4096, heads=32, peak_lr=1e-5, tokens=4e10),
}
# What Chameleon has and CM3Leon has not: further fields of a `TransformerConfig`.
_CHAMELEON = dict(
    activation="silu",
    gated_mlp=True,
    tie_embeddings=False,
    qk_norm=True,
    qk_norm_per_head=True,
    norm="rms",
    norm_order="pre",  # "post" in the 30B
    positions="rotary",
    rope_theta=10_000.0,
    num_kv_heads=None,  # as many as heads; 8 in the 30B
)
_CHAMELEON_MLP = 11_008 / 4_096  # of the width
_BATCH_TOKENS = 8_388_608  # the paper's 8M: 2,048 rows of 4,096
_LENGTH = 4096
_WHOLE_LENGTH = 4224
# As many ids as the quickstart's tokenizers have, for rehearsals of its step.
_SMALL_VOCAB = dict(
    text_size=512,
    image_size=512,
    control_size=76,
    num_sentinels=64,
    codes_per_image=64,
)


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        variants=tuple(_SIZES),
        quick=False,
        full=False,
        debug=False,
        pictures=False,
        whole=False,
        synthetic=False,
    )
    config = ml_collections.ConfigDict()
    config.job = "train"
    config.shards = ""  # folder of the sets
    config.sets = dict(pairs=1.0)  # set in the folder -> weight in the mixture
    config.mixture = dict(
        # Smallest and largest number of times that an epoch of the mixture shows a
        # document: (0.3, 3.0) in the paper's tuning. Empty: weights as they are.
        limits=(),
        shares="",  # of all documents, fixed: "pairs=0.1"
        folders="",  # of sets that lie elsewhere: "coco=/mnt/bucket/coco/coco"
    )
    config.neighbor_sets = ("pairs",)  # whose documents get retrieved ones in front
    config.init_from = ""  # folder of a run whose weights to start from
    config.seed = 0
    config.num_cpu_devices = 0  # devices that a CPU pretends to be; 0: JAX's choice
    config.mesh = dict(data=1, fsdp=-1, tensor=1, sequence=1)  # devices an axis
    size = _SIZES[arg["variant"]]
    config.model = model(size["layers"], size["dim"], size["heads"])
    config.loader = loader()
    config.optimizer = dict(
        peak_lr=size["peak_lr"],
        warmup_steps=1_500,
        final_lr_share=0.1,  # of the peak, after a linear decay
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
        mu_dtype="float32",
        trained=("*",),  # patterns of parameter names
    )
    config.attention = dict(
        kind="auto",  # "xla" on CPU, "splash" on TPU, "cudnn" on GPU; or "triton"
        block_q=512,  # tiles of splash attention: queries and keys, forward
        block_kv=1024,
        block_kv_compute=512,
        block_q_dkv=512,  # and backward
        block_kv_dkv=2048,
        block_kv_dkv_compute=512,
    )
    config.step = dict(
        num_microbatches=1,
        chunk_mib=256.0,  # of logits a device
        z_loss=0.0,  # not in CM3Leon; 1e-5 in Chameleon
    )
    config.loop = dict(
        num_steps=int(size["tokens"] // _BATCH_TOKENS),
        log_every=10,
        save_every=500,
        keep_last=2,
        keep_every=10_000,
        eval_every=1_000,
    )
    config.guard = dict(
        action="stop",  # at a gradient that is not finite: "stop", "skip" or "none"
        spike_factor=0.0,  # and at a loss so many times its mean; 0: never
        spike_after=100,  # steps until the mean is trusted
        max_in_a_row=10,  # bad steps that "skip" goes on from
    )
    # These four sections may change between stop and start.
    config.prefetch = dict(
        num_batches=2,  # made ahead; 0: none
        num_workers=1,  # threads that make one; more for distant disks
    )
    config.saving = dict(
        best_metric="",  # keeps the best by it too, "validation_perplexity_image_2"
        is_highest_best=False,
        on_error="stop",  # where a checkpoint cannot be written: "stop" or "continue"
    )
    config.watch = dict(
        tensorboard=False,  # needs the extra `watch`
        wandb_project="",  # needs the extra `wandb`
        draw_every=5_000,  # steps between previews of what the model makes; 0: none
        num_pictures=8,  # of a preview
        profile_first_step=0,  # of a profiler's trace; 0: none
        profile_num_steps=3,
        heartbeat_seconds=10.0,  # between signs of life of every host; 0: none
        stall_seconds=3_600.0,  # without a step until it dumps stacks, exit code 6
    )
    # Changes that a run may be gone on with, separated by commas: "optimizer.peak_lr",
    # "loader", "data" (shards or batches are others), "versions.jax".
    config.resume = dict(allow_change="")
    # Perplexity of held-out documents of one set, with 0 and with 2 retrieved ones.
    config.evaluation = dict(set="pairs", neighbors=(0, 2), num_documents=256)
    if arg["whole"]:
        _whole(config)
    if arg["quick"] or arg["full"]:
        _quick(config, num_steps=4_000 if arg["full"] else 1_400)
    if arg["pictures"] and (arg["quick"] or arg["full"]):
        # Some thousand pictures of one's own are soon known by heart.
        config.loop.update(num_steps=600 if arg["full"] else 300, eval_every=100)
    if arg["debug"]:
        _debug(config, size)
    if arg["variant"] == "chameleon-7b":
        _chameleon(config)
    if arg["synthetic"]:
        config.job = "rehearse"
        config.rehearsal = dict(
            num_steps=20,  # that are measured
            vocab=dict(_SMALL_VOCAB if arg["quick"] or arg["full"] else {}),
        )
    return config


def model(num_layers, model_dim, num_heads):
    """Fields of a `TransformerConfig`; the vocabulary comes with the shards."""
    return dict(
        num_layers=num_layers,
        num_heads=num_heads,
        model_dim=model_dim,
        head_dim=model_dim // num_heads,
        mlp_dim=4 * model_dim,
        max_length=_LENGTH,
        activation="relu",  # of OPT's launcher; the paper does not say
        tie_embeddings=True,  # likewise
        qk_norm=False,  # not in CM3Leon; Chameleon's remedy for drifting logits
        layer_norm_epsilon=1e-5,
        dtype="bfloat16",
        product_dtype=None,  # of the factors of products, "auto" on a CPU; None: dtype
        gradient_dtype="float32",  # as chips add them; "bfloat16" halves what is sent
        param_dtype="float32",
        remat="dots",
        scan_layers=True,
        init_std=0.006,  # cut at 3 std; output projections of the residuals are 0
        pos_init_std=0.0002,
    )


def loader():
    """Fields of a `LoaderConfig`: the paper's way of packing."""
    return dict(
        max_length=_LENGTH,  # tokens a row
        batch_size=_BATCH_TOKENS // _LENGTH,  # rows a step, of all hosts
        num_streams=512,  # a multiple of the hosts, divides batch_size
        packing="cut",
        neighbor_probs=(0.0, 0.0, 0.0, 1.0),  # of 0, 1, 2, 3 retrieved documents
        open_rows=8,
        read_ahead=32,
        seed=0,
        cm3=dict(
            target_mask_prob=0.0,
            rectangle_prob=0.0,
            rule="",  # a file of cm3leon_jax/documents/rules in place of what follows
            rotation_prob=0.0,
            span_rate=1.0,  # mean of the Poisson number of spans
            min_spans=0,
            max_spans=16,
        ),
        weights=dict(retrieved=1.0, sentinel=1.0, context=1.0, target_min=0.0),
    )


def _whole(config):
    """No picture is ever cut: a query and three neighbours of 1,024 codes fit a row.

    98.9 % of the places are real tokens (benchmarks/loader.py); at 4,096 a row has room
    for two neighbours, and 76 % are real, as with plain pairs, three to a row.
    """
    config.model.max_length = _WHOLE_LENGTH
    config.loader.update(max_length=_WHOLE_LENGTH, packing="whole")


def small(config, *, length, rows):
    """A model and rows for two CPU cores."""
    # Each core computes its own rows: twice one device, where threads share each
    # operation and wait for each other.
    config.num_cpu_devices = 2
    config.mesh.update(data=-1, fsdp=1)
    config.model = model(4, 128, 4)
    # A narrow model wants larger weights: the paper's 0.006 is for 1,024 and wider.
    config.model.update(
        max_length=length,
        dtype="float32",
        # bfloat16 on a CPU with instructions for it: a third off a step.
        product_dtype="auto",
        remat="none",
        scan_layers=False,  # a little faster on CPU, and few layers compile soon
        init_std=0.04,
        pos_init_std=0.02,
    )
    config.loader.update(
        max_length=length,
        batch_size=rows,
        num_streams=2,
        packing="whole",
        neighbor_probs=(0.35, 0.3, 0.35),
    )
    # Hidden parts of a picture are asked for, and uniform spans seldom give them.
    config.loader.cm3.rectangle_prob = 0.2
    config.step.chunk_mib = 64.0
    config.watch.draw_every = 0
    config.guard.action = "none"


def _quick(config, num_steps):
    small(config, length=256, rows=8)
    config.optimizer.update(peak_lr=3e-3, warmup_steps=100)
    config.loop.update(
        num_steps=num_steps,
        log_every=20,
        save_every=500,
        keep_last=2,
        keep_every=0,
        eval_every=500,
    )


def _debug(config, size):
    """The size's own proportions, a thirty-second as wide and a twelfth as deep."""
    small(config, length=192, rows=4)
    width, heads = size["dim"] // 32, size["heads"] // 8
    config.model.update(
        num_layers=size["layers"] // 12,
        num_heads=heads,
        model_dim=width,
        head_dim=width // heads,
        mlp_dim=4 * width,
    )
    config.optimizer.warmup_steps = 2
    config.loop.update(
        num_steps=10, log_every=2, save_every=5, keep_every=0, eval_every=5
    )
    config.evaluation.num_documents = 8


def _chameleon(config):
    """Its choices in the transformer, and how it was trained; CM3 as it is here.

    An image is 1,026 ids: with three neighbours a row of 4,096 would not hold a query.
    """
    config.model.update(
        mlp_dim=int(_CHAMELEON_MLP * config.model.model_dim), **_CHAMELEON
    )
    config.optimizer.update(epsilon=1e-5, warmup_steps=min(100, config.loop.num_steps))
    config.step.z_loss = 1e-5
    config.loader.neighbor_probs = (1.0,)
