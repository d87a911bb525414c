"""Networks of pixels from other programs and to them: image tokenizers, RRDB networks.

`from_vqgan` reads taming-transformers', LlamaGen's, Janus's and Chameleon's files and
those of `transformers` (ChameleonVQVAE, JanusVQVAE, by themselves or within a larger
model), safetensors or `.pt` and `.ckpt`, and writes an image tokenizer; `from_real_esrgan`
reads `RealESRGAN_x4plus.pth` and its like and writes an upscaler. The others go back.

Usage:
    cm3leon --config configs/convert_pixels.py:from_vqgan --workdir runs/in \
        --config.source=janus/ --config.target=runs/vqgan
    cm3leon --config configs/convert_pixels.py:from_vqgan --workdir runs/in \
        --config.source=vqgan.ckpt --config.image_size=256 --config.target=runs/vqgan
    cm3leon --config configs/convert_pixels.py:to_janus --workdir runs/out \
        --config.source=runs/vqgan --config.target=janus/
    cm3leon --config configs/convert_pixels.py:to_chameleon --workdir runs/out ...
    cm3leon --config configs/convert_pixels.py:to_taming --workdir runs/out ...
    cm3leon --config configs/convert_pixels.py:to_llamagen --workdir runs/out ...
    cm3leon --config configs/convert_pixels.py:from_real_esrgan --workdir runs/in \
        --config.source=RealESRGAN_x4plus.pth --config.target=runs/upscaler
    cm3leon --config configs/convert_pixels.py:to_real_esrgan --workdir runs/out \
        --config.source=runs/upscaler --config.target=upscaler.safetensors
"""

import ml_collections

from configs import common


def get_config(arg=None):
    arg = common.parse_arg(
        arg,
        variants=(
            "from_vqgan",
            "to_taming",
            "to_llamagen",
            "to_chameleon",
            "to_janus",
            "from_real_esrgan",
            "to_real_esrgan",
        ),
    )
    config = ml_collections.ConfigDict()
    config.job = "convert_pixels"
    config.direction = arg["variant"]
    config.source = ""  # a file or a folder
    config.target = ""  # a folder; of to_real_esrgan a safetensors file
    config.image_size = 0  # pixels a side, where the source does not say
    return config
