"""What 8 bits cost: the share of codes that change, and the judge's score.

The kept model draws held-out scenes from the same seeds with its own weights, with
weights in 8 bits, and with the cache in 8 bits too. After the first code that changes,
the rest of a picture is another drawing; so the share of codes that change while all
codes before them are the same is counted, and the pictures that stay the same.

Usage:
    python benchmarks/int8.py --model=examples/demo --num=300 --out=int8.json
"""

import argparse
import json
import random
import time

import numpy as np

from cm3leon_jax import api
from cm3leon_jax.decoding import engine
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.decoding.writer import Order
from cm3leon_jax.scenes import judge, language, sampling, scores
from cm3leon_jax.scenes.world import QUICK
from cm3leon_jax.tasks import pair


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="examples/demo")
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()

    rng = random.Random(0)
    scenes = [sampling.sample(QUICK, "test", rng) for _ in range(options.num)]
    how = Sampling(temperature=options.temperature)
    orders = [
        Order(pair.prompt(language.caption(scene, QUICK)), seed=seed, sampling=how)
        for seed, scene in enumerate(scenes)
    ]
    shapes = engine.Shapes(rows=(min(100, options.num),))
    result, drawn = {"num": options.num, "temperature": options.temperature}, {}
    for precision in api.PRECISIONS:
        model = api.load(options.model, shapes=shapes, precision=precision)
        model.writer.run(orders)  # compiles
        start = time.perf_counter()
        made = model.writer.run(orders)
        seconds = time.perf_counter() - start
        drawn[precision] = np.stack([each.codes for each in made])
        read = judge.read_all(np.stack([each.picture for each in made]), QUICK)
        right = [*map(scores.objects, scenes, read)]
        result[precision] = {
            "pictures_per_second": options.num / seconds,
            "objects_right": float(np.mean(right)),
            "scenes_right": float(np.mean([each == 1 for each in right])),
        }
        result[precision] |= changed(drawn["trained"], drawn[precision])
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")


def changed(codes, others):
    """Shares of codes that change first, and of pictures that stay the same."""
    same = codes == others
    reached = np.cumprod(np.pad(same, [(0, 0), (1, 0)], constant_values=True), axis=1)
    reached = reached[:, :-1].astype(bool)
    return {
        "codes_changed": float((reached & ~same).sum() / reached.sum()),
        "pictures_unchanged": float(same.all(axis=1).mean()),
    }


if __name__ == "__main__":
    main()
