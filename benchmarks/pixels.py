"""Pictures a second through the image tokenizer, beside `transformers`' own networks.

Encoding beside ChameleonVQVAE, decoding beside JanusVQVAE, eager, compiled and compiled
with weights and pictures in channels-last layout, the same weights on all sides and in
turns. Codes are compared first (the run stops if more than one in a thousand differ), and
pictures (1e-3). Ours are the jitted functions that `tokenizers/image.py` runs; theirs
get as many threads as there are cores. All in float32. With `--devices` of a CPU ours
spreads the pictures over them, as the job `shards` does on a machine of several.

Usage:
    python benchmarks/pixels.py --image_size=128 --base_channels=64
    python benchmarks/pixels.py --image_size=256 --batch=1 --rounds=5
    python benchmarks/pixels.py --image_size=256 --batch=2 --devices=2
    python benchmarks/pixels.py --sides ours eager --only encode
"""

import argparse
import copy
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time

import jax
import numpy as np
import torch
import transformers
from flax import nnx

from cm3leon_jax import cpu, sharding
from cm3leon_jax.convert import vqgan as convert
from cm3leon_jax.models import vqgan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # PyTorch's; JAX finds its own
SIDES = ("ours", "eager", "compiled", "channels_last")


def main():
    options = arguments()
    cpu.use_devices(options.devices)
    if options.keep_memory:
        cpu.keep_freed_memory()
    tasks = {"encode": encode, "decode": decode}
    results = {name: measure(tasks[name](options), options) for name in options.only}
    about = {
        "device": jax.devices()[0].device_kind,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("jax", "jaxlib", "torch", "transformers")
        },
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(vars(options) | about | results, indent=2))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--base_channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--devices", type=int, default=0, help="of a CPU; 0: one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--only", nargs="+", choices=("encode", "decode"), default=["encode", "decode"]
    )
    parser.add_argument(
        "--keep_memory",
        action="store_true",
        help="freed memory stays with the process, as in the job vqgan; for all sides",
    )
    return parser.parse_args()


def shape(options, **changes):
    """The published layers: multipliers 1, 1, 2, 2, 4, two blocks a level."""
    kernels = (3,) * 5
    return vqgan.VqganConfig(
        image_size=options.image_size,
        base_channels=options.base_channels,
        multipliers=(1, 1, 2, 2, 4),
        encoder_kernels=kernels,
        decoder_kernels=kernels,
        **changes,
    )


def weights_for(config):
    """Our network with weights of about the size that trained ones have."""

    @jax.jit  # one program for all weights
    def make():
        rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))
        return vqgan.Vqgan(config, rngs=rngs)

    model = make()
    table = model.quantize.embedding
    table[...] = jax.random.normal(jax.random.key(1), table[...].shape)
    return model


def theirs(model, naming, module_class, config_class):
    """Their module with our weights."""
    fields = convert.their_config(model.config, naming)
    fields.pop("model_type")
    module = module_class(config_class(**fields)).eval()
    state = {
        name: torch.from_numpy(np.array(array))
        for name, array in convert.tensors(model, naming).items()
    }
    module.load_state_dict(state)
    return module.to(DEVICE)


def encode(options):
    """Each side as a function without arguments that returns codes [N, P]."""
    config = shape(options, attention_sizes=(), use_decoder=False)
    model = weights_for(config)
    size = (options.batch, options.image_size, options.image_size, 3)
    pictures = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    run = spread(lambda model, x: model.encode(vqgan.from_bytes(x)), model)
    chameleon = transformers.models.chameleon
    module = theirs(
        model, "chameleon", chameleon.ChameleonVQVAE, chameleon.ChameleonVQVAEConfig
    )

    def there(function, layout=torch.contiguous_format):
        pixels = torch.from_numpy(pictures).to(DEVICE).permute(0, 3, 1, 2)
        pixels = (pixels.float() / 127.5 - 1.0).contiguous(memory_format=layout)
        with torch.inference_mode():
            return function(pixels).reshape(len(pictures), -1).cpu().numpy()

    return sides(
        lambda: run(pictures),
        module,
        lambda module: lambda pixels: module.encode(pixels).image_tokens,
        there,
    )


def decode(options):
    """Each side as a function without arguments that returns pictures [N, Y, X, 3]."""
    lowest = options.image_size // 16
    config = shape(
        options,
        attention_sizes=(lowest,),
        code_dim=8,
        codebook_size=16_384,
        use_l2_norm=True,
    )
    model = weights_for(config)
    codes = np.random.default_rng(0).integers(0, 16_384, (options.batch, lowest**2))
    run = spread(lambda model, codes: model.decode(codes), model)
    janus = transformers.models.janus
    module = theirs(
        model,
        "janus",
        janus.modeling_janus.JanusVQVAE,
        janus.configuration_janus.JanusVQVAEConfig,
    )

    def there(function, layout=None):
        # The layout of the weights is what convolutions go by.
        with torch.inference_mode():
            found = function(torch.from_numpy(codes).to(DEVICE))
            return found.permute(0, 2, 3, 1).cpu().numpy()

    return sides(
        lambda: run(codes),
        module,
        lambda module: module.decode,
        there,
    )


def spread(function, model):
    """The function of a batch, each device computing its own rows of it."""
    rows = sharding.LocalRows()
    graph, weights = nnx.split(model)
    weights = rows.put_weights(weights)
    jitted = jax.jit(lambda weights, batch: function(nnx.merge(graph, weights), batch))
    return lambda batch: np.asarray(jitted(weights, rows.put(batch)))


def sides(ours, module, function_of, there):
    """Every side as a function without arguments."""
    nhwc = torch.channels_last
    last = copy.deepcopy(module).to(memory_format=nhwc)
    compiled = functools.partial(there, torch.compile(function_of(module)))
    channels_last = functools.partial(there, torch.compile(function_of(last)), nhwc)
    return {
        "ours": ours,
        "eager": functools.partial(there, function_of(module)),
        "compiled": compiled,
        "channels_last": channels_last,
    }


def measure(sides, options):
    """Compares the sides, then times them in turns; a ratio above 1 is ours."""
    sides = {name: sides[name] for name in options.sides}
    outputs = {name: run() for name, run in sides.items()}  # compiles too
    check(outputs)
    seconds = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    found = {
        name: {
            "pictures_per_second_best": options.batch / min(times),
            "pictures_per_second_median": options.batch / float(np.median(times)),
        }
        for name, times in seconds.items()
    }
    for kind in ("best", "median"):
        key = f"pictures_per_second_{kind}"
        peers = {name: each[key] for name, each in found.items() if name != "ours"}
        for name, speed in peers.items():
            found["ours"][f"over_{name}_{kind}"] = found["ours"][key] / speed
    return found


def check(outputs):
    """Stops the run if codes or pictures differ."""
    ours = outputs["ours"]
    for name, other in outputs.items():
        if ours.dtype.kind == "i":
            share = float((ours == other).mean())
            if share < 0.999:
                sys.exit(f"{name}: only {share:.4%} of the codes are the same")
        elif np.abs(ours - other).max() > 1e-3 * max(1.0, np.abs(other).max()):
            sys.exit(f"{name}: pictures differ by {np.abs(ours - other).max():.1e}")


if __name__ == "__main__":
    main()
