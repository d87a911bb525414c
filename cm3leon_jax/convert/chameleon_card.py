"""The model card of a Chameleon that was trained further, as `card` is of a CM3Leon's.

Stock `transformers` masks the logits of image codes, so the card draws with the parts of
its class: features, then the head.
"""

from __future__ import annotations

from cm3leon_jax.convert import card, chameleon
from cm3leon_jax.models.block import TransformerConfig
from cm3leon_jax.tokenizers import chameleon as tokenizers
from cm3leon_jax.vocab import Vocab


def write(
    config: TransformerConfig,
    vocab: Vocab,
    origin: card.Provenance,
    texts: tokenizers.ChameleonTokenizer,
    *,
    image_size: int,
    has_decoder: bool,
) -> str:
    """Returns the card, Markdown with a YAML head.

    Args:
      config: Of the model.
      vocab: The joint vocabulary.
      origin: Where the model comes from.
      texts: Its text tokenizer, for the names of marks.
      image_size: Pixels a side.
      has_decoder: Whether `vqgan/` and `pixels.py` lie beside.
    """
    codes = str(vocab.codes_per_image)
    use = _DRAW.replace("NUM_CODES", codes) if has_decoder else ""
    return (
        "\n\n".join(
            [
                _HEAD,
                "# A Chameleon, trained further",
                f"**{LICENCE_NOTE}**",
                _about(config, vocab, image_size),
                f"## Use\n\n{_NOTE}\n\n```python\n{_SETUP}```",
                f"### Draw, with guidance 3\n\n```python\n{use}```" if use else _NO_USE,
                _tokens(texts),
                *card.ends(origin, chameleon.LICENCE),
            ]
        )
        + "\n"
    )


def _about(config: TransformerConfig, vocab: Vocab, image_size: int) -> str:
    c = config
    return (
        "One decoder-only transformer that reads and writes text and pictures"
        " (Chameleon, arXiv:2405.09818), trained with cm3leon_jax from public weights;"
        " stock `transformers` opens it as `ChameleonForConditionalGeneration`.\n\n"
        f"{c.num_layers} layers, {c.model_dim} wide, {c.num_heads} heads"
        f" ({c.kv_heads} of keys and values), MLP {c.mlp_dim}; {c.max_length} positions;"
        f" {c.vocab_size} ids. A picture is {image_size}x{image_size} pixels and"
        f" {vocab.codes_per_image + 2} ids: its {vocab.codes_per_image} codes of"
        f" {vocab.image_size} between two marks."
    )


def _tokens(texts: tokenizers.ChameleonTokenizer) -> str:
    last = tokenizers.sentinel(texts.num_sentinels - 1)
    rows = [
        (tokenizers.BEGIN_IMAGE, "begins a picture"),
        (tokenizers.END_IMAGE, "ends a picture"),
        (tokenizers.BREAK, "between two texts; ends a turn"),
        (tokenizers.END_OF_INFILL, "ends what was filled in (CM3)"),
        (tokenizers.sentinel(0), "first sentinel: where something is to be filled in"),
        (last, f"last of {texts.num_sentinels} sentinels, all between in order"),
    ]
    lines = "\n".join(
        f"| {texts.ids[name]} | `{name}` | {what} |" for name, what in rows
    )
    return (
        "## Tokens\n\n`tokenizer.json` is Chameleon's, byte for byte. CM3's marks sit on"
        " ids that it has reserved:\n\n| id | name | what |\n|---|---|---|\n"
        f"{lines}\n\n"
        "Image codes have names like `IMGIMGBCDZ`: the digits of the code, 0 to 9 as A to"
        " J, here 123. Their ids are in no order."
    )


LICENCE_NOTE = (
    "For research only. The weights that this model was trained from are under the"
    " Chameleon Research License, which does not allow commercial use of them or of what"
    " is made from them."
)
_HEAD = """\
---
license: other
license_name: chameleon-research-license
library_name: transformers
pipeline_tag: image-text-to-text
---"""
_NOTE = (
    "The class of `transformers` never draws: it sets the logits of image codes to the"
    " smallest number. Its features and its head are whole. Run in this folder:"
)
_NO_USE = (
    "The image tokenizer came without a decoder, so pictures cannot be drawn from this"
    " folder."
)
_SETUP = """\
import torch
from transformers import AutoTokenizer, ChameleonForConditionalGeneration

tokenizer = AutoTokenizer.from_pretrained(".")
model = ChameleonForConditionalGeneration.from_pretrained(".").eval()
ids = lambda text: tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
names = {i: n for n, i in tokenizer.get_vocab().items() if n.startswith("IMGIMG")}
code_of = {i: int("".join(str("ABCDEFGHIJ".index(x)) for x in n[6:-1])) for i, n in names.items()}
image_ids = torch.tensor(sorted(code_of, key=code_of.get))
"""
_DRAW = """\
from pixels import Pixels

streams = [ids("<s>a red circle<racm3:break>"), ids("<s><racm3:break>")]
pasts, codes = [None, None], []
for _ in range(NUM_CODES):
    parts = [model.model(x, past_key_values=p) for x, p in zip(streams, pasts)]
    given, free = (model.lm_head(x.last_hidden_state[:, -1])[:, image_ids] for x in parts)
    codes.append(int((free + 3.0 * (given - free)).argmax()))  # or draw from its softmax
    pasts = [x.past_key_values for x in parts]
    streams = [image_ids[codes[-1]].view(1, 1)] * 2
Pixels("vqgan").decode(torch.tensor([codes]))[0].save("drawn.png")
"""
