"""Public benchmarks by the paper's protocol, one a row of its tables.

`coco_fid` is Table 1: 30,000 captions of COCO's validation pictures, 8 drawings each, the
best by the run's bi-encoder, FID by pytorch-fid's weights; `documents` retrieved ones in
front (0, 1, 2 there). The others are Table 2, of the instruction-tuned model without
examples in context (`examples=4` puts four in front), and two data sets of its tuning.
Where the paper does not give a setting it is ours: guidance, top-p, decoding of text.

VisDial ranks 100 candidates a question by likelihood and has no other settings.
Splits of the paper: COCO test (Karpathy), VQA2 and VizWiz test-dev (`answers.json` is for
their servers; `split=validation` scores here), OKVQA validation, Image Paragraph test.

Usage:
    cm3leon --config configs/benchmark.py:coco_fid,documents=2 --workdir runs/fid \
        --config.model=runs/7b --config.benchmark.folder=/data/coco \
        --config.benchmark.inception=/data/pt_inception-2015-12-05-6726825d.pth
    cm3leon --config configs/benchmark.py:vqa2 --workdir runs/vqa2 \
        --config.model=runs/sft --config.benchmark.folder=/data/vqa2
    cm3leon --config configs/benchmark.py:coco,examples=4 ...
    cm3leon --config configs/benchmark.py:flickr30k ...
    cm3leon --config configs/benchmark.py:paragraph ...
    cm3leon --config configs/benchmark.py:vizwiz ...
    cm3leon --config configs/benchmark.py:okvqa ...
    cm3leon --config configs/benchmark.py:visdial ...
    cm3leon --config configs/benchmark.py:scienceqa ...
"""

import ml_collections

from configs import common

# name: task, reader, split, most ids, numbers of SFT-CM3Leon-7B (Table 2) or of the 7B
# with two documents (Table 1).
_ROWS = {
    "coco_fid": ("pair", "coco", "validation", 0, {"fid": 4.88}),
    "coco": ("coco", "karpathy", "test", 32, {"cider_d": 0.616}),
    "flickr30k": ("flickr30k", "karpathy", "test", 32, {}),
    "paragraph": ("paragraph", "paragraphs", "test", 128, {"cider_d": 0.105}),
    "vqa2": ("vqa2", "vqa", "test", 16, {"vqa_accuracy": 0.476}),
    "vizwiz": ("vizwiz", "vizwiz", "test", 16, {"vqa_accuracy": 0.376}),
    "okvqa": ("okvqa", "vqa", "validation", 16, {"vqa_accuracy": 0.238}),
    "visdial": ("visdial", "auto", "validation", 0, {"ndcg": 0.226}),
    "scienceqa": ("scienceqa", "scienceqa", "test", 256, {}),
}
_FID_OF_7B = {0: 10.82, 1: 5.78, 2: 4.88}  # by retrieved documents, Table 1


def get_config(arg=None):
    arg = common.parse_arg(
        arg, variants=tuple(_ROWS), documents=0, examples=0, debug=False
    )
    name = arg["variant"]
    task, reader, split, max_text, paper = _ROWS[name]
    is_drawing = task == "pair"
    if is_drawing:
        found = _FID_OF_7B.get(arg["documents"])
        paper = {"fid": found} if found else {}
    config = ml_collections.ConfigDict()
    config.job = "evaluate"
    config.model = ""  # folder of a training job
    # Devices of a host: they share requests (data) and the model (fsdp, tensor).
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.benchmark = dict(
        name=name,
        task=task,  # a file of cm3leon_jax/tasks; pair draws from captions
        folder="",  # the data set as its authors give it
        source=dict(common.source(), reader=reader),
        splits=common.splits(False),  # where the data set has none of its own
        split=split,
        num_cases=30_000 if is_drawing else 0,  # 0: all there are
        num_samples=8 if is_drawing else 1,  # drawings of which one is picked
        num_documents=arg["documents"],  # retrieved ones in front
        num_examples=arg["examples"],  # of the task in front
        example_pool=1_000,  # rows of the training split they are chosen from
        max_text=max_text,  # ids that are written
        seed=0,
        sampling=_sampling(is_drawing),
        cases_per_part=64 if is_drawing or task == "visdial" else 512,
        # A column of the data (subject), or field of a question (answer_type), by whose
        # values the numbers are given too; empty for none.
        group="",
        # Descriptions ("a photo of a man", ...): how many drawn pictures, and how many
        # of the data, are nearest to each by the judge.
        group_prompts=(),
        inception="",  # the FID's weights; without them nothing is called FID
        judge="",  # a bi-encoder that judges; it may not have picked the drawings
        judge_name="judge",  # what its numbers are called by
        reference="",  # pictures in a folder, or pytorch-fid's .npz; empty: the cases'
        paper=paper,
    )
    config.shapes = dict(  # padded shapes; each is compiled once
        rows=(64,),
        prompt_lengths=(256, 1_280, 2_560, 4_096),
        steps=(16, 32, 128, 256, 1_024),
        num_pieces=(8,),
    )
    if arg["debug"]:
        config.benchmark.update(num_cases=8, num_samples=1, cases_per_part=4)
        config.benchmark.splits = dict(num_validation=4, num_test=8)
        config.shapes.update(
            rows=(8,), prompt_lengths=(96, 256, 512), steps=(16, 32, 64)
        )
    return config


def _sampling(is_drawing):
    return dict(
        temperature=1.0 if is_drawing else 0.0,  # 0 takes the most probable id
        top_k=0,
        top_p=0.9 if is_drawing else 1.0,
        guidance=3.0 if is_drawing else 1.0,
        image_guidance=1.0,
        contrast_k=0,
        contrast_alpha=0.5,
        amateur_temperature=1.0,
        rule="",  # a file of cm3leon_jax/decoding/rules
    )
