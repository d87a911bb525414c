"""Named emblems: thousands of crests, each with a fixed look.

A name has four syllables, and any two names differ in at least two of them, so that a
text encoder can tell apart names that it never saw. There are so many that a model had
better copy a look from a document than learn them all by heart. The first `num_emblems` names are
shown in training; the measured ones after them only in the bank and the test split, on
walls that do not overlap: what a prompt asks for is never in the bank as a whole.
"""

from __future__ import annotations

import functools
import random

from cm3leon_jax.scenes.world import Background, Emblem, Scene, WorldConfig

_FIRST_SYLLABLES = (
    "Zar Bel Kor Mun Tal Ves Dra Fen Gol Hir Jas Lor Nim Pax Quil Ros Sul Tor Urm Wex"
    " Yad Cal Bram Olt Ith Ash Gron Cor Dun Elm Fal Syl Hol Isk Jun Kel"
)
_MIDDLE_SYLLABLES = (
    "vo da re mi lu ka sho ne bi gu ta fe po ri wa ze ju ly ho xa ce ny su va ki"
    " zo mo di fi ga pe vi xu tha cy jo"
)
_LAST_SYLLABLES = (
    "kin dar mel tun ros vik len gar pol sem nox bur thal wyn cus fod jin hax lim dor"
    " zet quo ram yon pek bex cam dul fyr gim hal sko vord lap mur naf"
)
_FIRST = _FIRST_SYLLABLES.split()
_MIDDLE = _MIDDLE_SYLLABLES.split()
_LAST = _LAST_SYLLABLES.split()
_BASE = len(_FIRST)
_NUM_NAMES = _BASE**3
_VALIDATION_PART = 5  # one in so many known emblems is shown on another wall there


@functools.lru_cache(maxsize=8)
def all_emblems(world: WorldConfig) -> tuple[Emblem, ...]:
    """Every emblem of a world: first those of training, then the measured ones.

    Raises:
      ValueError: If the world asks for more names than there are.
    """
    count = world.num_emblems + world.num_measured_emblems
    if count > _NUM_NAMES:
        raise ValueError(
            f"num_emblems + num_measured_emblems = {count} is more than the"
            f" {_NUM_NAMES} names; lower one of them"
        )
    rng = random.Random(f"emblems/{world.seed}")
    numbers = rng.sample(range(_NUM_NAMES), count)
    return tuple(
        Emblem(
            _name(number),
            rng.choice(world.colours),
            rng.choice(world.shapes),
            rng.choice(world.colours),
        )
        for number in numbers
    )


def training(world: WorldConfig) -> tuple[Emblem, ...]:
    """The emblems that training may show."""
    return all_emblems(world)[: world.num_emblems]


def measured(world: WorldConfig) -> tuple[Emblem, ...]:
    """The emblems that no training row shows."""
    return all_emblems(world)[world.num_emblems :]


@functools.lru_cache(maxsize=8)
def scenes(world: WorldConfig, split: str) -> tuple[Scene, ...]:
    """All emblem pictures of a split: `train`, `validation`, `test` or `bank`."""
    num_walls = len(world.wall_colours)
    known, steps = {
        "train": (training(world), range(world.train_walls)),
        "validation": (
            training(world)[::_VALIDATION_PART],
            [world.train_walls],
        ),
        "bank": (measured(world), range(world.bank_walls)),
        "test": (measured(world), range(world.bank_walls, num_walls)),
    }[split]
    # Every emblem begins at another wall, so that all walls are shown alike.
    places = {emblem: index for index, emblem in enumerate(all_emblems(world))}
    pairs = [
        (emblem, (places[emblem] + step) % num_walls)
        for emblem in known
        for step in steps
    ]
    return tuple(
        Scene(Background("plain", (world.wall_colours[wall],)), emblem=emblem)
        for emblem, wall in pairs
    )


@functools.lru_cache(maxsize=8)
def shuffled_scenes(world: WorldConfig, split: str, seed: int) -> tuple[Scene, ...]:
    """The pictures of `scenes` in an order that a seed decides."""
    pictures = list(scenes(world, split))
    random.Random(f"emblem order/{seed}/{split}").shuffle(pictures)
    return tuple(pictures)


def by_name(world: WorldConfig) -> dict[str, Emblem]:
    """Every emblem under its name."""
    return {emblem.name: emblem for emblem in all_emblems(world)}


def _name(number: int) -> str:
    """The last syllable follows from the first three: a change of one changes two."""
    rest, third = divmod(number, _BASE)
    first, second = divmod(rest, _BASE)
    last = (first + second + third) % _BASE
    return f"{_FIRST[first]}{_MIDDLE[second]}{_MIDDLE[third]}{_LAST[last]}"


assert len(_FIRST) == len(_MIDDLE) == len(_LAST) == _BASE, "syllables of equal number"
