"""A page to try a trained model on: draw, describe, ask, fill in, edit.

Usage:
    cm3leon --config configs/serve.py --workdir runs/page --config.model=examples/demo

Then open the address that it prints. What is made is kept in the workdir, each picture
with where it comes from. The page answers this machine alone; `--config.host=0.0.0.0`
opens it to a network, to anyone who reaches it. Needs the extra `serve`.
"""

import ml_collections


def get_config(arg=None):
    if arg:
        raise ValueError(f"configs/serve.py takes no argument, got {arg!r}")
    config = ml_collections.ConfigDict()
    config.job = "serve"
    config.model = "examples/demo"  # folder of a run, or of an exported model
    config.precision = "trained"  # or int8, int8_and_cache
    config.host = "127.0.0.1"
    config.port = 7860
    config.warm_up = True  # compile before the page opens
    config.limits = dict(
        max_pictures=4,  # of one request
        max_letters=1_000,  # of one text
        max_upload_mb=10.0,
        max_waiting=16,  # requests; one runs at a time
    )
    config.defaults = dict(
        temperature=0.7,  # of pictures; texts are the most probable
        top_p=0.9,
        guidance=3.0,
        edit_guidance=3.0,  # of the instruction; 7.5 in the paper, too much for the demo
        edit_image_guidance=1.5,  # of the picture; the paper's
        examples=(
            "a red circle at the top left and a blue triangle at the bottom right",
            "a yellow ring at the top right and a green cross at the bottom left",
            "a purple square at the bottom left",
        ),
    )
    return config
