"""The model card of a converted folder: what it is, from what, and how to use it.

Its code is what users copy, so a test takes it out of the card and runs it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.vocab import Vocab

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
      source: What was converted.
      licence: Of the weights; empty if unknown.
      weights: Digest of the source's weights.
      text_tokenizer: Digest, empty if there is none; likewise `image_tokenizer`.
      data: Markdown of the training data's card, empty if there is none.
      limits: Markdown of what was measured, by group too; empty if nothing was.
      version: Of the program.
    """

    source: str
    licence: str
    weights: str
    text_tokenizer: str = ""
    image_tokenizer: str = ""
    data: str = ""
    limits: str = ""
    version: str = ""


def write(
    config: TransformerConfig,
    vocab: Vocab,
    origin: Provenance,
    *,
    image_size: int,
    num_pieces: int,
    has_upscaler: bool = False,
) -> str:
    """Returns the card, Markdown with a YAML head.

    Args:
      config: Of the model.
      vocab: The joint vocabulary.
      origin: Where the model comes from.
      image_size: Pixels a side.
      num_pieces: Ids of the text tokenizer.
      has_upscaler: Whether a super-resolution network lies beside.
    """
    examples = EXAMPLES | (LARGE if has_upscaler else {})
    licence = origin.licence or UNKNOWN
    head = {
        "license": licence.lower(),
        "library_name": "transformers",
        "pipeline_tag": "text-to-image",
    }
    lines = "\n".join(f"{name}: {value}" for name, value in head.items())
    return (
        "\n\n".join(
            [
                f"---\n{lines}\n---",
                "# A CM3Leon model",
                _about(config, vocab, image_size),
                "## Use",
                _CODE_NOTE,
                *(
                    f"### {title}\n\n```python\n{_fill(code, vocab, num_pieces)}```"
                    for title, code in examples.items()
                ),
                _tokens(vocab),
                *ends(origin, licence),
            ]
        )
        + "\n"
    )


def _about(config: TransformerConfig, vocab: Vocab, image_size: int) -> str:
    c = config
    return (
        "One decoder-only transformer that reads and writes text and pictures (CM3Leon,"
        " arXiv:2309.02591), trained with cm3leon_jax and written as OPT: stock"
        " `transformers` opens it without custom code.\n\n"
        f"{c.num_layers} layers, {c.model_dim} wide, {c.num_heads} heads, MLP"
        f" {c.mlp_dim}; {c.max_length} positions; {c.vocab_size} ids. A picture is"
        f" {image_size}x{image_size} pixels and {vocab.codes_per_image} codes of"
        f" {vocab.image_size}."
    )


def _fill(code: str, vocab: Vocab, num_pieces: int) -> str:
    for name, value in (
        ("NUM_CODES", vocab.codes_per_image),
        ("FIRST_CODE", vocab.image_start),
        ("CODEBOOK", vocab.image_size),
        ("NUM_PIECES", num_pieces),
    ):
        code = code.replace(name, str(value))
    return code


def _tokens(vocab: Vocab) -> str:
    return (
        "## Tokens\n\n"
        "| ids | names | what |\n|---|---|---|\n"
        f"| 0 to {vocab.text_size - 1} | | text pieces; `<s>`, `<pad>`, `</s>`,"
        " `<unk>` are 0 to 3 |\n"
        f"| {vocab.image_start} to {vocab.control_start - 1} | `<image:0>` to"
        f" `<image:{vocab.image_size - 1}>` | image codes, in the codebook's order |\n"
        f"| {vocab.break_id} | `<break>` | between text and picture |\n"
        f"| {vocab.end_of_infill_id} | `<end>` | ends what was filled in |\n"
        f"| {vocab.sentinel_id(0)} to {vocab.sentinel_id(vocab.num_sentinels - 1)} |"
        f" `<sentinel:0>` to `<sentinel:{vocab.num_sentinels - 1}>` | where something is"
        " to be filled in |\n\n"
        "`text.model` is the SentencePiece model that `tokenizer.json` was made from."
        " Strangers' text may spell the name of a mark: encode it by itself with"
        " `split_special_tokens=True`, then it stays plain characters. Guidance is"
        " scale times the difference of two prompts' logits; `transformers` computes it"
        " from log-probabilities, which gives the same choice."
    )


def ends(origin: Provenance, licence: str) -> tuple[str, str, str]:
    """The last sections of a card: limits, data, licence and provenance."""
    limits = f"## Known limits\n\n{_LIMITS}\n\n{origin.limits.strip() or _NO_LIMITS}"
    data = f"## Training data\n\n{origin.data.strip() or _NO_DATA}"
    return limits, data, _provenance(origin, licence)


def _provenance(origin: Provenance, licence: str) -> str:
    digests: list[tuple[str, Any]] = [
        ("converted from", origin.source),
        ("weights", origin.weights),
        ("text tokenizer", origin.text_tokenizer),
        ("image tokenizer", origin.image_tokenizer),
        ("program", origin.version),
    ]
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in digests if value)
    return (
        f"## Licence and provenance\n\nLicence of the weights: {licence}.\n\n"
        f"| what | SHA-256 or name |\n|---|---|\n{rows}"
    )


_LIMITS = (
    "A model trained on pictures and captions carries their bias: who and what they show"
    " often is drawn often, and what they seldom show is drawn and described worse. Text"
    " in pictures, counting and relations are weak in models of this kind. Measure the"
    " groups that matter to you before you show drawings to people."
)
_NO_LIMITS = "Nothing was measured by group (`evaluations` of the conversion)."
_NO_DATA = "No data card came with the run."
_CODE_NOTE = (
    "`pixels.py` (PyTorch, one file, beside the weights) turns pictures into codes and"
    " codes into pictures. Run in this folder:"
)
_SETUP = """\
from pixels import Pixels
from transformers import AutoModelForCausalLM, AutoTokenizer

pixels = Pixels("vqgan")
tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
ids = lambda text: tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
codes = lambda path: "".join(f"<image:{code}>" for code in pixels.encode(path)[0])
image_ids = list(range(FIRST_CODE, FIRST_CODE + CODEBOOK))
text_ids = [*range(4, NUM_PIECES), tokenizer.convert_tokens_to_ids("<end>")]
"""
_DRAW = """\
prompt = ids("</s>a red circle at the top left<break>")
drawn = model.generate(
    prompt,
    negative_prompt_ids=ids("</s><sentinel:0><break>"),
    guidance_scale=3.0,
    do_sample=False,  # or do_sample=True, temperature=0.8, top_p=0.9
    max_new_tokens=NUM_CODES,
    prefix_allowed_tokens_fn=lambda row, before: image_ids,
)[:, prompt.shape[1] :]
pixels.decode(drawn - FIRST_CODE)[0].save("drawn.png")
"""
_CAPTION = """\
asked = "</s>Describe the given picture.<sentinel:0><break>"
prompt = ids(asked + codes("picture.png") + "</s><sentinel:0>")
written = model.generate(
    prompt,
    do_sample=False,
    max_new_tokens=48,
    eos_token_id=text_ids[-1],
    prefix_allowed_tokens_fn=lambda row, before: text_ids,
)[:, prompt.shape[1] :]
caption = tokenizer.decode(written[0], skip_special_tokens=True).strip()
"""
_EDIT = """\
told = "Edit first image following the instruction<break>"
prompt = ids(f"</s>{told}{codes('picture.png')}<break>make the red circle blue<break>")
edited = model.generate(
    prompt,
    negative_prompt_ids=ids("</s><sentinel:0><break>"),
    guidance_scale=3.0, do_sample=False,
    max_new_tokens=NUM_CODES,
    prefix_allowed_tokens_fn=lambda row, before: image_ids,
)[:, prompt.shape[1] :]
pixels.decode(edited - FIRST_CODE)[0].save("edited.png")
"""
EXAMPLES = {
    "Once": _SETUP,
    "Draw, with guidance 3 and image ids only": _DRAW,
    "Describe": _CAPTION,
    "Edit": _EDIT,
}
LARGE = {
    "Enlarge": """\
from pixels import Upscaler

large = Upscaler("upscaler").enlarge("drawn.png")
large.save("large.png")
"""
}
