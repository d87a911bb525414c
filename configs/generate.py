"""Pictures and text from a trained model: one prompt, or a file of requests.

Usage:
    cm3leon --config configs/generate.py --workdir runs/drawings \
        --config.model=runs/quickstart --config.prompt="a red circle at the top left"
    cm3leon --config configs/generate.py --workdir runs/many \
        --config.model=runs/quickstart --config.requests=requests.jsonl

A line of a file of requests is a JSON object with any of the fields of `request`:

    {"kind": "draw", "text": "a red circle at the top left", "n": 4, "retrieve": 2}
    {"kind": "caption", "picture": "photo.png", "sampling": {"temperature": 0}}
    {"kind": "answer", "picture": "photo.png", "text": "how many objects are there?"}
    {"kind": "edit", "picture": "photo.png", "text": "remove the red circle"}
    {"kind": "infill", "picture": "photo.png", "box": [0, 0, 32, 32]}
    {"kind": "layout", "text": "a red circle", "boxes": [["red circle", 0, 0, 32, 32]]}
    {"kind": "segmentation", "picture": "map.png", "text": "a red circle"}
    {"kind": "edges", "picture": "white_lines_on_black.png", "text": "a red circle"}
    {"kind": "complete", "text": "a <mask> circle at the top left"}

and of those that only a line can have (see `jobs/generate.py`):

    {"kind": "infill", "picture": "photo.png", "mask": "white_where_anew.png"}
    {"kind": "caption", "picture": "photo.png", "num_beams": 4}
    {"kind": "draw", "text": "a red circle", "best_of": 8,
     "mixed_with": {"contrast_k": 4, "top_p": 1.0}}
    {"kind": "continue", "parts": ["a red circle", {"picture": "photo.png"}, "a"],
     "turns": ["text", "picture"]}
    {"kind": "scienceqa", "picture": "tree.png", "text": "which tree is it?",
     "choices": ["oak", "elm"]}

Every task of the paper has a kind of its own name, with its own prompt (`asks.py`).
The paper edits with `"sampling": {"guidance": 7.5, "image_guidance": 1.5}`.

The quickstart's stages are `configs/generate.py:quick`, `:full` and `:debug`.
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False)
    config = ml_collections.ConfigDict()
    config.job = "generate"
    config.model = ""  # folder of a run
    config.prompt = ""  # one drawing; or
    config.requests = ""  # a JSONL file
    config.precision = "trained"  # or int8, int8_and_cache
    config.mesh = dict(  # of this host's devices; -1: the rest
        data=-1,  # copies, which share the requests
        fsdp=1,
        tensor=1,  # pieces of a model that one device cannot hold, or not fast enough
    )
    config.upscaler = ""  # folder of an upscaler: pictures are also kept enlarged
    config.show = True  # every result on the terminal
    config.requests_at_once = 8 if arg["debug"] else 256
    config.request = dict(  # what a request does not say
        kind="draw",
        text="",
        picture="",
        box=(),
        boxes=(),
        n=1,
        seed=0,
        retrieve=0,  # documents
        keep_documents=False,  # in the unconditional stream
        max_text=47,  # ids
        sampling=dict(),
    )
    config.sampling = dict(
        temperature=1.0,  # 0 takes the most probable id
        top_k=0,  # 0 keeps all
        top_p=0.9,
        guidance=1.0,  # 1 is none
        image_guidance=1.0,
        contrast_k=0,  # 0 is off
        contrast_alpha=0.5,
        amateur_temperature=1.0,
        rule="",  # a file of cm3leon_jax/decoding/rules
    )
    return config
