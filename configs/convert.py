"""To PyTorch and back: a model's folder for stock `transformers`, and from one.

`to_hf` reads a training job, a quickstart or an exported model and writes OPT's weights
in safetensors, a fast tokenizer file, the VQGAN with one PyTorch file that runs it, and a
model card. `from_hf` reads such a folder, or the weights alone of any OPT without biases
and scales, and writes an exported model: for `api.load`, or to start a training from
(`init_from`). Both also take Chameleon, the class `ChameleonForConditionalGeneration`; its
image tokenizer's decoder comes by `configs/convert_pixels.py`. An interrupted conversion goes on with the same command.

Usage:
    cm3leon --config configs/convert.py:to_hf --workdir runs/to_hf \
        --config.source=runs/quickstart --config.target=runs/hf
    cm3leon --config configs/convert.py:to_hf ... --config.evaluations="('runs/vqa2',)"
    cm3leon --config configs/convert.py:from_hf --workdir runs/from_hf \
        --config.source=runs/hf --config.target=runs/again
    cm3leon --config configs/convert.py:from_hf --workdir runs/from_chameleon \
        --config.source=chameleon-7b --config.image_tokenizer=runs/chameleon-vqgan \
        --config.target=runs/chameleon
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, variants=("to_hf", "from_hf"))
    config = ml_collections.ConfigDict()
    config.job = "convert"
    config.direction = arg["variant"]
    config.source = ""  # a model's folder
    config.target = ""  # where the other kind of folder is written; empty or not there
    config.dtype = "float32"  # of the weights that are written, or "bfloat16"
    config.shard_mb = 4_000.0  # largest file of weights, to_hf
    config.licence = ""  # of the weights, in the card; empty: what the export says
    config.upscaler = ""  # folder of a super-resolution network to put beside, to_hf
    # Folder of Chameleon's image tokenizer with its decoder, from_hf: the port has none.
    config.image_tokenizer = ""
    # Folders of finished benchmarks, whose numbers, by group too, the card's limits say.
    config.evaluations = ()
    return config
