"""A trained model to a table of numbers, each beside what guessing gives.

On the built-in scenes (a folder with `world.json`) a judge decides; a person's own
pictures are measured by perplexity, captions and the bi-encoder. `quick`, `full` and
`debug` measure the quickstart's models, `pictures` those of a person's own folder. The
quick model's numbers take about a minute on two cores.

Usage:
    cm3leon --config configs/evaluate.py --workdir runs/evaluate \
        --config.model=runs/sft --config.pictures.folder=runs/scenes
    cm3leon --config configs/evaluate.py:quick --workdir runs/quickstart/evaluate \
        --config.model=runs/quickstart/sft \
        --config.pictures.folder=runs/quickstart/scenes
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False, pictures=False)
    small = arg["quick"] or arg["debug"] or arg["full"]
    config = ml_collections.ConfigDict()
    config.job = "evaluate"
    config.model = ""  # folder of a training job
    # Devices of a host: they share requests (data) and the model (fsdp, tensor).
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.pictures = dict(folder="")  # the built-in scenes, or a person's own
    config.splits = common.splits(small)  # where the folder has no split folders
    config.num_shown = 24  # samples of a number that are kept with their pictures
    config.scenes = dict(
        parts=(
            "objects",
            "captions",
            "answers",
            "edits",
            "infills",
            "emblems",
            "layouts",
            "segmentations",
            "text_infills",
            # Scenes of the small worlds have no signs.
            *(() if small else ("relations", "writing")),
        ),
        num_cases=300,
        num_samples=8,  # of which the bi-encoder picks one
        max_caption=31 if small else 127,  # ids
        max_answer=15,  # ids
        seed=0,
    )
    config.own = dict(num_cases=300, max_caption=31 if small else 127, seed=0)
    config.drawing = _sampling(temperature=0.7)
    config.writing = _sampling(temperature=0.0)  # the most probable
    config.guided = _sampling(temperature=0.7, guidance=3.0)
    config.contrastive = _sampling(
        contrast_k=4, contrast_alpha=0.3, amateur_temperature=2.0
    )
    config.varied = _sampling(temperature=0.8)
    config.mixed = _sampling(temperature=0.8)  # every second one of `samples`
    config.loader = dict(  # of the perplexity
        max_length=256 if small else 4_096,
        batch_size=16,
        num_streams=1,
        open_rows=8,
        read_ahead=256,
        seed=0,
    )
    config.shapes = dict(  # padded shapes; each is compiled once
        rows=(100,) if small else (64,),
        prompt_lengths=(48, 96, 192, 256) if small else (256, 1_024, 2_048, 4_096),
        steps=(32, 64) if small else (128, 1_024),
        num_pieces=(8,) if small else (64,),
    )
    if arg["debug"]:
        config.num_shown = 4
        config.scenes.update(num_cases=8, num_samples=2)
        config.own.num_cases = 100
        config.shapes.rows = (16,)
    return config


def _sampling(**changes):
    return (
        dict(
            temperature=1.0,
            top_k=0,  # 0 keeps all
            top_p=1.0,
            guidance=1.0,  # 1 is none
            image_guidance=1.0,
            contrast_k=0,  # 0 is off
            contrast_alpha=0.5,
            amateur_temperature=1.0,
            rule="",  # a file of cm3leon_jax/decoding/rules
        )
        | changes
    )
