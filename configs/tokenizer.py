"""The text tokenizer: SentencePiece on the text of the training pictures.

The paper's has 56,320 pieces. A text too small for that gets fewer, and says so.

Usage:
    cm3leon --config configs/tokenizer.py --workdir runs/tokenizer \
        --config.pictures.folder=runs/scenes
    cm3leon --config configs/tokenizer.py:quick --workdir runs/quick/tokenizer ...
    cm3leon --config configs/tokenizer.py:quick,pictures --workdir runs/mine/tokenizer ...
    cm3leon --config configs/tokenizer.py:full --workdir runs/full/tokenizer ...
    cm3leon --config configs/tokenizer.py:debug --workdir runs/debug/tokenizer ...
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(arg, quick=False, full=False, debug=False, pictures=False)
    small = arg["quick"] or arg["debug"] or arg["full"]
    config = ml_collections.ConfigDict()
    config.job = "tokenizer"
    config.pictures = dict(folder="")  # an imagefolder, or one a split
    config.splits = common.splits(small)  # where the folder has no split folders
    # Columns of the rows, dotted into lists and records; those missing are skipped.
    config.columns = (
        "text",
        "text_long",
        "questions.question",
        "questions.answer",
        "edit.instruction",
    )
    # Templates count as so many texts a row each, or their words would be spelt out.
    config.template_share = 0.1 if small else 0.01
    config.template_tasks = ("caption", "vqa", "edit", "layout", "segmentation")
    # Ids, control and bytes included. 1,024 hold every word of the quick scenes and
    # every syllable of a name, so that all names have one length.
    config.vocab_size = 1_024 if small else 56_320
    if arg["pictures"]:
        config.columns = ("text", "keywords")
        config.template_tasks = ("caption",)
        config.vocab_size = 1_024 if small else 56_320
    if arg["debug"]:
        # People's captions have more characters than the scenes'.
        config.vocab_size = 512 if arg["pictures"] else 320
        config.splits = dict(num_validation=4, num_test=8)
    return config
