"""Decoding beside `transformers` OPT and the decoder of PyTorch's benchmark suite.

Greedy decoding of `--new` ids after a prompt of `--prompt` ids. Each side runs in a
process of its own with the same weights; they take turns, so that both meet the same
machine, and the ids that they write are compared first. Ours is the engine that every
request goes through: grammar, noise and padding included.

    opt             `generate` with its growing cache, no biases, no affine norms
    opt_static      the same with its static cache; opt_compiled: and `torch.compile`
    suite           `cm3leon_generate` of github.com/pytorch/benchmark, if `--suite` names
                    its `model.py`; its shape is 760m. It reads the last id of a prompt
                    alone, so with it the ids are compared after prompts of one id. Its
                    layers share one cache by mistake; here each has its own.
                    suite_compiled: its decoder by `torch.compile`, lengths dynamic
    ours_int8       our weights in int8, weight-only; ours_int8_cache: its cache too

Needs torch and transformers beside this package's requirements.

Usage:
    python benchmarks/decode.py --shape=350m --rows=2 --out=decode.json
    python benchmarks/decode.py --shape=760m --rows=1 --sides ours suite \
        --suite=benchmark/torchbenchmark/models/cm3leon_generate/model.py
"""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
import zlib

import numpy as np

# Layers, width, heads. The suite's 2,048 ids and positions.
SHAPES = {"350m": (24, 1024, 16), "760m": (24, 1536, 16), "tiny": (24, 64, 16)}
VOCAB_SIZE = 2_048
NUM_OTHERS = (4, 44)  # ids before and after the image codes, which are never written


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="350m")
    parser.add_argument("--layers", type=int, help="fewer than the shape's, for a try")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", default=["ours", "opt"], choices=SIDES)
    parser.add_argument("--suite", help="model.py of the suite's cm3leon_generate")
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    workers, first = {}, None
    for side in options.sides:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(side, options, there), daemon=True)
        process.start()
        workers[side] = here
        ids = here.recv()
        if isinstance(ids, str):
            sys.exit(f"{side}: {ids}")
        first = ids if first is None else first
        check(side, ids, first, options.sides[0])
    seconds = {side: [] for side in options.sides}
    for _ in range(options.rounds):
        for side, pipe in workers.items():
            pipe.send(True)
            seconds[side].append(pipe.recv())
    peaks = {}
    for side, pipe in workers.items():
        pipe.send(False)
        peaks[side] = pipe.recv()
    report(options, seconds, peaks)


def check(side, ids, first, name):
    """Says how many ids differ; float32 sides must agree but for ties."""
    share = float((ids == first).mean())
    agreed = [
        int(np.argmin(same)) if not same.all() else len(same) for same in ids == first
    ]
    print(
        f"{side}: {100 * share:.1f} % of the ids of {name}, the first {min(agreed)} in"
        " every row",
        file=sys.stderr,
    )
    if "int8" not in side and share < 0.9:
        sys.exit(f"{side} writes other ids than {name}")


def report(options, seconds, peaks):
    """Prints a table and writes JSON."""
    new = options.rows * options.new
    result = {
        name: getattr(options, name) for name in ("shape", "rows", "prompt", "new")
    }
    result |= {"layers": size(options)[0], "versions": versions(), "sides": {}}
    for side, times in seconds.items():
        result["sides"][side] = {
            "new_ids_per_second_best": new / min(times),
            "new_ids_per_second_median": new / float(np.median(times)),
            "peak_memory_gb": peaks[side],
        }
    ours = result["sides"].get("ours")
    for name, side in result["sides"].items():
        if ours and name != "ours":
            for key in ("best", "median"):
                rate = f"new_ids_per_second_{key}"
                side[f"ours_is_times_{key}"] = ours[rate] / side[rate]
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")


def versions():
    names = ("jax", "jaxlib", "flax", "torch", "transformers")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"python": platform.python_version(), "cores": os.cpu_count()}


def work(side, options, pipe):
    """One side's process: its ids first, then times on demand, its memory at the end."""
    try:
        run = SIDES[side](options)
        asked = prompts(options)
        is_last_alone = any(side.startswith("suite") for side in options.sides)
        pipe.send(run(asked[:, -1:] if is_last_alone else asked))
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        pipe.send(repr(error))
        return
    while pipe.recv():
        start = time.perf_counter()
        run(asked)
        pipe.send(time.perf_counter() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def size(options):
    layers, width, heads = SHAPES[options.shape]
    return options.layers or layers, width, heads


def prompts(options):
    """int[rows, prompt]: image codes, no row like another."""
    before, after = NUM_OTHERS
    rng = np.random.default_rng(0)
    shape = (options.rows, options.prompt)
    return rng.integers(before, VOCAB_SIZE - after, shape).astype(np.int32)


def weights(name, shape):
    """The same numbers for every side, by name; ids that are not written score 0."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fan_in = 400.0 if "embed" in name else shape[0]
    drawn = rng.standard_normal(shape, np.float32) * np.float32(fan_in**-0.5)
    if name == "embed":
        before, after = NUM_OTHERS
        drawn[:before] = drawn[-after:] = 0
    return drawn


def layer_weights(layer, width):
    """Of one layer, each [inputs, outputs]."""
    sizes = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "o": (1, 1)}
    sizes |= {"up": (1, 4), "down": (4, 1)}
    return {
        name: weights(f"{layer}.{name}", (width * rows, width * columns))
        for name, (rows, columns) in sizes.items()
    }


def ours(options, int8=False, int8_cache=False):
    """The engine, the same code that draws pictures."""
    import jax.numpy as jnp
    from flax import nnx

    from cm3leon_jax.decoding import engine, grammar
    from cm3leon_jax.decoding import prompts as requests
    from cm3leon_jax.decoding.sampling import Sampling
    from cm3leon_jax.models import int8 as int8_models
    from cm3leon_jax.models import transformer
    from cm3leon_jax.vocab import Vocab

    layers, width, heads = size(options)
    before, after = NUM_OTHERS
    config = transformer.TransformerConfig(
        num_layers=layers,
        num_heads=heads,
        model_dim=width,
        head_dim=width // heads,
        mlp_dim=4 * width,
        vocab_size=VOCAB_SIZE,
        max_length=VOCAB_SIZE,
    )
    vocab = Vocab(
        text_size=before,
        image_size=VOCAB_SIZE - before - after,
        control_size=after,
        num_sentinels=8,
        codes_per_image=1,
    )
    model = nnx.eval_shape(
        lambda: transformer.unstack(transformer.Transformer(config, rngs=nnx.Rngs(0)))
    )
    model.token_embedding_VD.set_value(
        jnp.asarray(weights("embed", (VOCAB_SIZE, width)))
    )
    model.position_embedding_LD.set_value(
        jnp.asarray(weights("embed_positions", (VOCAB_SIZE, width)))
    )
    for number, block in enumerate(model.blocks):
        parts = layer_weights(number, width)
        wide = [parts[name].reshape(width, heads, -1) for name in "qkv"]
        block.qkv_D3HK.set_value(jnp.asarray(np.stack(wide, axis=1)))
        block.out_HKD.set_value(jnp.asarray(parts["o"].reshape(heads, -1, width)))
        block.up_DF.set_value(jnp.asarray(parts["up"]))
        block.down_FD.set_value(jnp.asarray(parts["down"]))
    if int8:
        model = int8_models.round_weights(model, cache=int8_cache)
    shapes = engine.Shapes(
        rows=(options.rows,),
        prompt_lengths=(options.prompt,),
        steps=(options.new,),
        num_pieces=(1,),
    )
    plan, how = (grammar.codes(options.new, vocab),), Sampling(temperature=0.0)

    def run(tokens):
        asked = [requests.Request((row,), plan, 0, how) for row in tokens]
        return np.stack(engine.generate(model, asked, vocab, shapes))

    return run


def opt(options, cache=None, is_compiled=False):
    """OPT without biases and affine norms, as its users decode with it."""
    import torch
    import transformers

    layers, width, heads = size(options)
    config = transformers.OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=4 * width,
        max_position_embeddings=VOCAB_SIZE,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        dropout=0.0,
        attn_implementation="sdpa",
    )
    model = transformers.OPTForCausalLM(config).eval()
    places = np.zeros((VOCAB_SIZE + 2, width), np.float32)  # OPT's begin at 2
    places[2:] = weights("embed_positions", (VOCAB_SIZE, width))
    with torch.no_grad():
        put = lambda name, value: model.get_parameter(name).copy_(torch.tensor(value))
        put("model.decoder.embed_tokens.weight", weights("embed", (VOCAB_SIZE, width)))
        put("model.decoder.embed_positions.weight", places)
        names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj"}
        names |= {"v": "self_attn.v_proj", "o": "self_attn.out_proj"}
        names |= {"up": "fc1", "down": "fc2"}
        for number in range(layers):
            for name, value in layer_weights(number, width).items():
                put(f"model.decoder.layers.{number}.{names[name]}.weight", value.T)
    if is_compiled:
        model.forward = torch.compile(model.forward, dynamic=False)
    asked = {
        "do_sample": False,
        "max_new_tokens": options.new,
        "min_new_tokens": options.new,
        "pad_token_id": 1,
        "eos_token_id": None,
        "cache_implementation": cache,
    }

    def run(tokens):
        tokens = torch.tensor(tokens, dtype=torch.long)
        mask = torch.ones_like(tokens)
        with torch.inference_mode():
            written = model.generate(tokens, attention_mask=mask, **asked)
        return written[:, tokens.shape[1] :].numpy()

    return run


def suite(options, is_compiled=False):
    """The suite's decoder, its biases 0 and its norms plain, so that both are equal."""
    import torch

    if not options.suite:
        raise ValueError("name the suite's model.py with --suite")
    layers, width, _ = size(options)
    spec = importlib.util.spec_from_file_location("suite_model", options.suite)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.create_model(width)
    if len(model.layers) != layers:
        raise ValueError(f"the suite has {len(model.layers)} layers, not {layers}")
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj"}
    names |= {"v": "self_attn.v_proj", "o": "self_attn.out_proj"}
    names |= {"up": "fc1", "down": "fc2"}
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.zero_()
        put = lambda name, value: model.get_parameter(name).copy_(torch.tensor(value))
        put("embed_tokens.weight", weights("embed", (VOCAB_SIZE, width)))
        # Padding is its last id; positions begin after it.
        places = model.get_parameter("embed_positions.weight")
        places[VOCAB_SIZE:].copy_(
            torch.tensor(weights("embed_positions", (VOCAB_SIZE, width)))
        )
        for number in range(layers):
            for name, value in layer_weights(number, width).items():
                put(f"layers.{number}.{names[name]}.weight", value.T)
    for number, layer in enumerate(model.layers):
        layer.self_attn._incremental_state_id = str(number)
    model = model.eval()
    if is_compiled:
        model = torch.compile(model, dynamic=True)
    generator = module.SequenceGenerator(model, 1, options.new).eval()

    def run(tokens):
        written = generator(torch.tensor(tokens, dtype=torch.long))
        return written[:, tokens.shape[1] :].numpy()

    return run


SIDES = {
    "ours": ours,
    "ours_int8": lambda options: ours(options, int8=True),
    "ours_int8_cache": lambda options: ours(options, int8=True, int8_cache=True),
    "opt": opt,
    "opt_static": lambda options: opt(options, "static"),
    "opt_compiled": lambda options: opt(options, "static", is_compiled=True),
    "suite": suite,
    "suite_compiled": lambda options: suite(options, is_compiled=True),
}

if __name__ == "__main__":
    main()
