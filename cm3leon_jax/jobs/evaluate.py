"""A trained model to a table of numbers, and samples to look at.

    parts/objects/        the numbers and the shown samples of a part, as it is done
    samples.jsonl         the samples of all parts, their pictures beside it
    done.json             every number
    settings.json         all that moves a number: config, checkpoint, versions
    results.txt           the table

On the built-in scenes a judge decides (`evals.scenes`); on a person's own pictures see
`evals.pictures`; a config with a section `benchmark` measures as papers do, see
`jobs/benchmark.py`. A part that is done is not run again.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import ml_collections
import numpy as np
import tqdm

from cm3leon_jax import api, storage
from cm3leon_jax.data import pictures as picture_files
from cm3leon_jax.data import pipeline, shards, splits, streams, trained
from cm3leon_jax.data.refusals import Refusals, RefusedError
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.documents import cm3, packing
from cm3leon_jax.documents.document import Document, Modality
from cm3leon_jax.evals import bench as benches
from cm3leon_jax.evals import perplexity, scenes
from cm3leon_jax.evals import pictures as picture_evals
from cm3leon_jax.jobs import benchmark, folder, models, resumption, visdial
from cm3leon_jax.reports import benchmark as tables
from cm3leon_jax.reports import samples as reports
from cm3leon_jax.scenes.world import WorldConfig
from cm3leon_jax.train import step

_SAMPLINGS = ("drawing", "writing", "guided", "contrastive", "varied", "mixed")
_TEST = splits.TEST
# Whose `written` is what the judge read in a drawing.
_READ = {"objects", "edits", "infills", "emblems", "layouts", "segmentations"}
Part = Callable[[], tuple[dict[str, float], list[benches.Sample]]]


def run(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Measures every part that is not yet done.

    Raises:
      FileNotFoundError: If model, shards or pictures are missing.
      ValueError: If there are too few held-out pictures to measure.
    """
    if "benchmark" in config:
        is_dialog = config.benchmark.task == visdial.NAME
        (visdial if is_dialog else benchmark).run(config, workdir)
        return
    if not folder.start(config, workdir):
        return
    root = pathlib.Path(workdir)
    model = models.load(config)
    is_world = (pathlib.Path(config.pictures.folder) / "world.json").exists()
    parts = {"perplexity": lambda: (_perplexity(config, model), [])}
    parts |= (_world_parts if is_world else _picture_parts)(config, model)
    with tqdm.tqdm(parts.items(), unit=" parts", desc="evaluate") as bar:
        for name, part in bar:
            bar.set_postfix_str(name)
            path = root / "parts" / name
            if not (path / "numbers.json").exists():
                metrics, found = part()
                reports.write(path, _shown(found, model, config.num_shown))
                storage.write_json(path / "numbers.json", metrics)
    done = [root / "parts" / name for name in parts]
    reports.write(root, [sample for path in done for sample in reports.read(path)])
    metrics = {}
    for path in done:
        metrics |= storage.read_json(path / "numbers.json")
    settings = {"checkpoint": model.digest, "versions": resumption.versions()}
    storage.write_json(root / "settings.json", settings | folder.resolved(config))
    table = tables.beside_guesses(metrics)
    storage.write_bytes(root / "results.txt", table.encode())
    print(table)
    folder.finish(workdir, metrics)


def _world_parts(
    config: ml_collections.ConfigDict, model: api.Model
) -> dict[str, Part]:
    """The parts that a judge decides."""
    pictures = pathlib.Path(config.pictures.folder)
    world = WorldConfig(**storage.read_json(pictures / "world.json"))
    cases = benches.read_cases(pictures / _TEST)
    fields = config.scenes.to_dict()
    fields |= {name: Sampling(**config[name].to_dict()) for name in _SAMPLINGS}
    asked = benches.SceneEvalConfig(coordinates=model.coordinates, **fields)
    unknown = [name for name in asked.parts if name not in scenes.PARTS]
    if unknown:
        raise ValueError(f"scenes.parts: {folder.nearest(unknown[0], [*scenes.PARTS])}")
    if model.bank is None or model.embed_text is None or model.embed_pictures is None:
        raise ValueError(
            f"{config.model} has no memory bank, which the emblems need; make its"
            " shards with an embedder"
        )
    bank, embed_text = model.bank, model.embed_text

    def retrieve(texts, count):
        found = bank.find(embed_text(texts), count)
        return [tuple(each.place for each in near) for near in found]

    whole = benches.Bench(
        writer=model.writer,
        world=world,
        config=asked,
        retrieve=retrieve,
        document=bank.document,
        embed_text=embed_text,
        embed_pictures=model.embed_pictures,
    )

    def part(name: str) -> Part:
        config = dataclasses.replace(asked, parts=(name,))
        bench = dataclasses.replace(whole, config=config)
        return lambda: scenes.evaluate(bench, cases)

    return {name: part(name) for name in asked.parts}


def _picture_parts(
    config: ml_collections.ConfigDict, model: api.Model
) -> dict[str, Part]:
    """The part for pictures that nothing judges."""
    fields = config.own.to_dict()
    fields |= {name: Sampling(**config[name].to_dict()) for name in _SAMPLINGS[:2]}
    asked = picture_evals.PictureEvalConfig(**fields)
    embed_text, embed_pictures = model.embed_text, model.embed_pictures
    if embed_text is None or embed_pictures is None:
        raise ValueError(
            f"{config.model} has no embedder, by which drawings find their captions;"
            " make its shards with one"
        )

    def part():
        held_out, training = (
            _captioned(config, split, model.writer.image_size)
            for split in (_TEST, splits.TRAIN)
        )
        return picture_evals.evaluate(
            model.writer, held_out, training, embed_text, embed_pictures, asked
        )

    return {"pictures": part}


def _captioned(
    config: ml_collections.ConfigDict, split: str, image_size: int
) -> picture_evals.Captioned:
    """A split of a person's own pictures; what is refused was listed by other jobs."""
    rule = picture_files.PictureConfig(image_size=image_size)
    how = splits.SplitConfig(**config.splits.to_dict())
    texts, pictures = [], []
    for row in splits.read(config.pictures.folder, split, how, Refusals()):
        try:
            pictures.append(picture_files.load(row.picture, rule))
        except RefusedError:
            continue
        texts.append(row.text)
    return picture_evals.Captioned(texts, np.stack(pictures))


def _perplexity(
    config: ml_collections.ConfigDict, model: api.Model
) -> dict[str, float]:
    """Perplexity of the held-out pairs, plainly causal, nothing in front of them."""
    loader = streams.LoaderConfig(
        **config.loader.to_dict(),
        packing="whole",
        neighbor_probs=(1.0,),
        cm3=cm3.CM3Config(span_rate=0.0),
        weights=packing.LossWeights(),
    )
    found = trained.shards_folder(config.model) / trained.PAIRS
    batches = pipeline.one_pass(shards.open(found, _TEST), loader)
    return perplexity.evaluate(
        model.writer.model, batches, model.writer.vocab, step.StepConfig()
    )


def _shown(
    found: list[benches.Sample], model: api.Model, count: int
) -> list[reports.Sample]:
    """The first samples of every key, with the pictures that were retrieved."""
    shown, seen = [], {}
    for sample in found:
        seen[sample.key] = seen.get(sample.key, 0) + 1
        if seen[sample.key] <= count:
            shown.append(sample)
    near = {place: None for sample in shown for place in sample.neighbours}
    if near and model.bank is not None:
        codes = [_codes(model.bank.document(place), model) for place in near]
        pictures = model.writer.decode_pictures(np.stack(codes))
        near = dict(zip(near, pictures, strict=True))
    return [
        reports.Sample(
            **{
                **{name: value for name, value in vars(sample).items()},
                "neighbours": tuple(near[place] for place in sample.neighbours),
                "is_read": sample.key.split("_")[0] in _READ,
            }
        )
        for sample in shown
    ]


def _codes(document: Document, model: api.Model) -> np.ndarray:
    """The codes of a document's first picture."""
    pictures = [s for s in document.segments if s.modality == Modality.IMAGE]
    return model.writer.vocab.codes(pictures[0].ids)
