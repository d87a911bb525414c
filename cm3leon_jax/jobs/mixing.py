"""The sets of a training config: where they lie, what they weigh, what they show.

mixture.txt   the table that is printed before training (`reports/mixture.py`)
"""

from __future__ import annotations

import pathlib

import ml_collections

from cm3leon_jax import storage
from cm3leon_jax.data import pipeline, proportions, shards, survey, trained
from cm3leon_jax.data.streams import LoaderConfig
from cm3leon_jax.reports import mixture as report
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.vocab import Vocab

FILE = "mixture.txt"


def specs(config: ml_collections.ConfigDict, split: str) -> list[pipeline.SetSpec]:
    """The sets of the mixture that have weight, as the config balances them.

    Raises:
      FileNotFoundError: If a set is missing.
      ValueError: If weights, limits, shares or folders make no mixture.
    """
    wanted = {name: weight for name, weight in config.sets.items() if weight}
    folders = _named(config.mixture.folders, "mixture.folders")
    unknown = [name for name in folders if name not in config.sets]
    if unknown:
        raise ValueError(
            f"mixture.folders names {unknown[0]!r}, which is no set; known:"
            f" {', '.join(config.sets)}"
        )
    root = pathlib.Path(config.shards)
    places = {name: folders.get(name, str(root / name)) for name in wanted}
    balance = proportions.MixtureConfig(
        limits=config.mixture.limits,
        shares={
            name: _number(name, share)
            for name, share in _named(config.mixture.shares, "mixture.shares").items()
        },
    )
    if balance.limits or balance.shares:
        sizes = {name: shards.splits(place)[split] for name, place in places.items()}
        wanted = proportions.weights(sizes, wanted, balance)
    elif not wanted:
        raise ValueError("the weights of `sets` sum to nothing; give one a weight")
    return [
        pipeline.SetSpec(places[name], split, weight, name in config.neighbor_sets)
        for name, weight in wanted.items()
    ]


def announce(
    config: ml_collections.ConfigDict, loader: LoaderConfig, workdir: str
) -> None:
    """Prints what the run will see, an example of each set, and keeps it as a file."""
    found, vocab = _surveyed(config, loader)
    try:
        path, _ = trained.tokenizers(config.shards)
        decode = text_tokenizers.load(path).decode
    except FileNotFoundError:  # shards without their tokenizers can be trained on
        decode = None
    text = report.text(found, vocab, decode)
    print(text)
    storage.write_bytes(storage.place(workdir) / FILE, f"{text}\n".encode())


def documents_a_token(config: ml_collections.ConfigDict, loader: LoaderConfig) -> float:
    """Documents of the sets to a token of a run, about; retrieved ones are none."""
    found, _ = _surveyed(config, loader)
    return 1 / sum(one.share * one.mean_length for one in found)


def _surveyed(
    config: ml_collections.ConfigDict, loader: LoaderConfig
) -> tuple[list[survey.SetSurvey], Vocab]:
    """A look at the sets of the mixture, and their vocabulary."""
    mixed = specs(config, "train")
    sources = [shards.open(spec.folder, spec.split) for spec in mixed]
    found = survey.survey(
        sources,
        [spec.weight for spec in mixed],
        loader,
        with_neighbors=[spec.with_neighbors for spec in mixed],
        num_tokens=config.loop.num_steps * loader.batch_size * loader.max_length,
    )
    return found, sources[0].info.vocab


def _named(text: str, where: str) -> dict[str, str]:
    """`a=1,b=2` as a dict."""
    pairs = [one.partition("=") for one in text.split(",") if one.strip()]
    if not all(mark and value for _, mark, value in pairs):
        raise ValueError(f"{where}={text!r} must be name=value, several with commas")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"mixture.shares: {name}={text!r} is no number") from error
