"""Named emblems: several hundred crests, each with a fixed look.

A name has three syllables, and any two names differ in at least two of them, so that a
text encoder can tell apart names that it never saw. The first `num_emblems` names are
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
_SECOND_SYLLABLES = (
    "vo da re mi lu ka sho ne bi gu ta fe po ri wa ze ju ly ho xa ce ny su va ki"
    " zo mo di fi ga pe vi xu tha cy jo"
)
_THIRD_SYLLABLES = (
    "kin dar mel tun ros vik len gar pol sem nox bur thal wyn cus fod jin hax lim dor"
    " zet quo ram yon pek bex cam dul fyr gim hal sko vord lap mur naf"
)
_FIRST = _FIRST_SYLLABLES.split()
_SECOND = _SECOND_SYLLABLES.split()
_THIRD = _THIRD_SYLLABLES.split()
_BASE = len(_FIRST)
_VALIDATION_PART = 10  # one in so many pictures of known emblems goes to validation


@functools.lru_cache(maxsize=8)
def all_emblems(world: WorldConfig) -> tuple[Emblem, ...]:
    """Every emblem of a world: first those of training, then the measured ones.

    Raises:
      ValueError: If the world asks for more names than there are.
    """
    count = world.num_emblems + world.num_measured_emblems
    if count > _BASE**2:
        raise ValueError(
            f"num_emblems + num_measured_emblems = {count} is more than the"
            f" {_BASE**2} names; lower one of them"
        )
    rng = random.Random(f"emblems/{world.seed}")
    numbers = rng.sample(range(_BASE**2), count)
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
    if split in ("test", "bank"):
        known, in_bank = measured(world), range(world.bank_walls)
        chosen = in_bank if split == "bank" else range(world.bank_walls, num_walls)
        pairs = [
            (emblem, (index + step) % num_walls)
            for index, emblem in enumerate(known)
            for step in chosen
        ]
    else:
        pairs = [
            (emblem, wall)
            for index, emblem in enumerate(training(world))
            for wall in range(num_walls)
            if ((index + 3 * wall) % _VALIDATION_PART == 0) == (split == "validation")
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
    """Names of numbers 0 to 1,295; two of them share at most one syllable's position."""
    first, second = divmod(number, _BASE)
    third = (first + second) % _BASE
    return f"{_FIRST[first]}{_SECOND[second]}{_THIRD[third]}"


assert len(_FIRST) == len(_SECOND) == len(_THIRD) == _BASE, "syllables of equal number"
