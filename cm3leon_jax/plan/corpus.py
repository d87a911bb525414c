"""Hours that pictures take to become shards with neighbours, on a pod.

    tokenise   the encoder's operations on the chips, or decoding on the hosts' cores
    embed      both towers' operations
    search     every document's picture and text against every document, exactly
    join       shards read and written again, a neighbour's tokens beside each document

Operations are counted from the traced networks. The rates are stated, not found out:
what part of the peak convolutions and a search reach, pictures a core, disk bandwidth.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from cm3leon_jax import devices
from cm3leon_jax.models import clip, vqgan
from cm3leon_jax.plan import work

_HOUR = 3600.0
_QUERIES = 2  # a document asks by its picture and by its text
_BYTES_A_TOKEN = 2
_CAPTION_TOKENS = 60
_NEIGHBORS = 4  # whose tokens are written beside each document


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What is made ready, and the rates that are assumed.

    Attributes:
      num_pictures: with a caption each.
      pictures_per_core: a second, read, decoded and resized.
      cores_per_chip: of its host.
      disk_bandwidth: bytes/s of a host, of reading and of writing.
      chips_per_host: chips that share it.
      convolution_share: of the peak, what the image tokenizer reaches.
      search_share: of the peak, what the search reaches.
    """

    num_pictures: int
    pictures_per_core: float
    cores_per_chip: int
    disk_bandwidth: float
    chips_per_host: int
    convolution_share: float
    search_share: float


def hours(
    config: CorpusConfig,
    tokenizer: vqgan.VqganConfig,
    embedder: clip.ClipConfig,
    device: devices.Device,
    num_chips: int,
) -> dict[str, float]:
    """Returns the hours of every part, by its name, and what they follow from.

    Args:
      config: what is made ready, and the rates.
      tokenizer: shape of the image tokenizer.
      embedder: shape of the bi-encoder.
      device: one chip.
      num_chips: that share the work.
    """
    encode = encoder_flops(tokenizer)
    embed = tower_flops(embedder)
    count = config.num_pictures
    peak = device.peak_flops * num_chips
    cores = config.cores_per_chip * num_chips
    hosts = max(1, num_chips // config.chips_per_host)
    search = 2.0 * _QUERIES * embedder.embed_dim * count * count
    tokens = _CAPTION_TOKENS + tokenizer.grid_size**2
    # Documents are read, and written with their neighbours' tokens beside them.
    moved = _BYTES_A_TOKEN * tokens * count * (2 + _NEIGHBORS)
    return {
        "num_pictures": count,
        "encoder_flops": encode,
        "embedder_flops": embed,
        "decode_hours": count / (config.pictures_per_core * cores) / _HOUR,
        "tokenise_hours": count * encode / (peak * config.convolution_share) / _HOUR,
        "embed_hours": count * embed / (peak * device.product_share) / _HOUR,
        "search_hours": search / (peak * config.search_share) / _HOUR,
        "join_hours": moved / (config.disk_bandwidth * hosts) / _HOUR,
    }


def encoder_flops(config: vqgan.VqganConfig) -> float:
    """Returns the operations that turn one picture into codes."""
    model = jax.eval_shape(lambda: vqgan.Vqgan(config, rngs=nnx.Rngs(0)))
    picture = _floats(1, config.image_size, config.image_size, 3)
    encode = lambda model, picture: model.encode(picture)
    return work.count(jax.make_jaxpr(encode)(model, picture)).total


def tower_flops(config: clip.ClipConfig) -> float:
    """Returns the operations that embed one picture and one text."""
    model = jax.eval_shape(lambda: clip.Clip(config, rngs=nnx.Rngs(0)))
    picture = _floats(1, config.image_size, config.image_size, 3)
    ids = jax.ShapeDtypeStruct((1, config.max_length), jnp.int32)

    def embed(model, picture, ids):
        return model.embed_pictures(picture), model.embed_texts(ids)

    return work.count(jax.make_jaxpr(embed)(model, picture, ids)).total


def table(found: dict[str, float]) -> str:
    """Returns the hours as lines for a terminal."""
    millions = found["num_pictures"] / 1e6
    names = ("decode", "tokenise", "embed", "search", "join")
    return "\n".join(
        f"{f'{millions:,.0f}M pictures, {name}':<24} {found[f'{name}_hours']:.2f} hours"
        for name in names
    )


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
