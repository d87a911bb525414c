"""What a scene is and how rich the world is: plain values, JSON both ways.

A scene is a background and either one to four objects in the cells of a square grid,
perhaps with a sign, or one emblem that fills the picture. Nothing here draws, samples
or writes sentences.
"""

from __future__ import annotations

import dataclasses
from typing import Any

# Red, green, blue in 0 to 255. Object and wall colours keep apart after a lossy tokenizer.
PAINTS = {
    "red": (220, 40, 40),
    "green": (30, 160, 60),
    "blue": (40, 70, 225),
    "yellow": (245, 210, 30),
    "purple": (160, 45, 200),
    "cyan": (40, 200, 220),
    "orange": (245, 130, 25),
    "pink": (250, 125, 190),
    "brown": (125, 75, 35),
    "black": (25, 25, 30),
    "white": (250, 250, 250),
    "gray": (170, 170, 175),
    "tan": (225, 200, 160),
    "mint": (185, 230, 200),
    "slate": (85, 95, 120),
    "lilac": (205, 195, 240),
}
SHAPES = (
    "circle",
    "square",
    "triangle",
    "cross",
    "ring",
    "diamond",
    "star",
    "heart",
    "moon",
    "arrow",
)
FILLS = ("solid", "striped", "dotted")
BACKGROUNDS = ("plain", "gradient", "split")
ROW_NAMES = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
COLUMN_NAMES = {2: ("left", "right"), 3: ("left", "centre", "right")}
_WORDS = (
    "OPEN STOP EXIT FARM HOTEL BAKERY TEA COFFEE MILK BREAD SALE FREE TAXI BUS ZOO PARK"
    " MUSEUM SCHOOL BANK POST CAFE INN PUB SHOP BOOKS MUSIC CINEMA GARDEN BEACH HARBOR"
    " NORTH SOUTH EAST WEST LOVE PEACE HELLO DANGER QUIET JAZZ FISH WINE HONEY"
)
WORDS = tuple(_WORDS.split())


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """How rich the world is; the defaults are the rich world.

    Attributes:
      image_size: Pixels a side.
      grid_size: Places a side: 2 or 3.
      shapes: Names from `SHAPES`.
      colours: Colours of objects and emblems, names from `PAINTS`.
      sizes: Names of sizes, in the order of `radii`.
      radii: Radius of each size as a share of half a cell.
      fills: Names from `FILLS`.
      backgrounds: Kinds of background, names from `BACKGROUNDS`.
      background_colours: Colours of backgrounds, none of them an object's.
      wall_colours: Colours of the walls that emblems hang on.
      min_objects: Fewest objects in a scene without a sign.
      max_objects: Most objects in a scene.
      jitter: Largest shift of an object from the middle of its place, in pixels.
      sign_prob: Share of scenes with a sign.
      max_number: Signs with a number show 0 to this.
      num_held_out_pairs: Pairs of shape and colour that only the test split shows.
      held_out_prob: Share of test scenes with such a pair.
      validation_share: Share of all possible scenes that belong to validation.
      test_share: Share of all possible scenes that belong to the test split.
      num_emblems: Named emblems that training may show.
      num_measured_emblems: Named emblems that only the bank and the test split show.
      train_walls: Walls per known emblem that training shows; validation shows
        another one of some emblems.
      bank_walls: Walls per measured emblem that are shown in the bank; the rest are
        asked for in the test split.
      seed: Decides the emblems' looks and, with a scene's content, its split.
    """

    image_size: int = 64
    grid_size: int = 3
    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = (
        "red",
        "green",
        "blue",
        "yellow",
        "purple",
        "cyan",
        "orange",
        "pink",
        "brown",
        "black",
    )
    sizes: tuple[str, ...] = ("small", "medium", "large")
    radii: tuple[float, ...] = (0.54, 0.7, 0.88)
    fills: tuple[str, ...] = FILLS
    backgrounds: tuple[str, ...] = BACKGROUNDS
    background_colours: tuple[str, ...] = ("white", "gray", "tan", "mint", "lilac")
    wall_colours: tuple[str, ...] = ("white", "gray", "tan", "mint", "slate", "lilac")
    min_objects: int = 1
    max_objects: int = 4
    jitter: int = 1
    sign_prob: float = 0.2
    max_number: int = 999
    num_held_out_pairs: int = 8
    held_out_prob: float = 0.25
    validation_share: float = 0.1
    test_share: float = 0.15
    num_emblems: int = 6_000
    num_measured_emblems: int = 150
    train_walls: int = 4
    bank_walls: int = 3
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from JSON or a ConfigDict
                object.__setattr__(self, field.name, tuple(value))
        _check_names("shapes", self.shapes, SHAPES)
        _check_names("colours", self.colours, PAINTS)
        _check_names("fills", self.fills, FILLS)
        _check_names("backgrounds", self.backgrounds, BACKGROUNDS)
        _check_names("background_colours", self.background_colours, PAINTS)
        _check_names("wall_colours", self.wall_colours, PAINTS)
        _check_numbers(self)

    @property
    def cell(self) -> float:
        """Pixels a side of one place."""
        return self.image_size / self.grid_size

    def radius(self, size: str) -> float:
        """Radius of an object in pixels."""
        return self.radii[self.sizes.index(size)] * self.cell / 2

    def centre(self, row: int, column: int) -> tuple[int, int]:
        """The middle of a place: pixel row and column (a corner between pixels)."""
        return round((row + 0.5) * self.cell), round((column + 0.5) * self.cell)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `WorldConfig(**values)` is the way back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True)
class Background:
    """Plain (one colour), gradient (top to bottom) or split (sky over ground)."""

    kind: str
    colours: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object: what it looks like, its place, its shift from the middle in pixels."""

    shape: str
    colour: str
    row: int
    column: int
    size: str = "large"
    fill: str = "solid"
    dy: int = 0
    dx: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the grid."""
        return self.row, self.column


@dataclasses.dataclass(frozen=True)
class Sign:
    """A board across one row of the grid with a word or a number on it."""

    text: str
    row: int


@dataclasses.dataclass(frozen=True)
class Emblem:
    """A named device: a charge on a white panel in a coloured field."""

    name: str
    field: str
    charge: str
    colour: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that a picture shows; objects stand in the reading order of places."""

    background: Background
    things: tuple[Thing, ...] = ()
    sign: Sign | None = None
    emblem: Emblem | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without what is absent."""
        record: dict[str, Any] = {
            "background": {
                "kind": self.background.kind,
                "colours": list(self.background.colours),
            }
        }
        if self.things:
            record["things"] = [dict(vars(thing)) for thing in self.things]
        if self.sign is not None:
            record["sign"] = dict(vars(self.sign))
        if self.emblem is not None:
            record["emblem"] = dict(vars(self.emblem))
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Scene:
        """The scene that `to_json` wrote."""
        background = record["background"]
        sign, emblem = record.get("sign"), record.get("emblem")
        return cls(
            Background(background["kind"], tuple(background["colours"])),
            tuple(Thing(**thing) for thing in record.get("things", ())),
            None if sign is None else Sign(**sign),
            None if emblem is None else Emblem(**emblem),
        )


def with_things(scene: Scene, things: list[Thing]) -> Scene:
    """The scene with other objects, put into reading order."""
    ordered = tuple(sorted(things, key=lambda thing: thing.place))
    return dataclasses.replace(scene, things=ordered)


def place_name(world: WorldConfig, row: int, column: int) -> str:
    """The words for a place, such as `top left`."""
    rows, columns = ROW_NAMES[world.grid_size], COLUMN_NAMES[world.grid_size]
    return f"{rows[row]} {columns[column]}"


def article(word: str) -> str:
    """`an` before a vowel, else `a`."""
    return "an" if word[0] in "aeiou" else "a"


def _check_names(field: str, given: tuple[str, ...], known) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given or len(set(given)) != len(given):
        raise ValueError(
            f"{field}={given} must be different names out of {', '.join(known)}"
        )


def _check_numbers(world: WorldConfig) -> None:
    if world.image_size < 32 or world.image_size % 16:
        raise ValueError(
            f"image_size={world.image_size} must be a multiple of 16 from 32 up"
        )
    if world.grid_size not in ROW_NAMES:
        raise ValueError(f"grid_size={world.grid_size} must be one of {[*ROW_NAMES]}")
    if len(world.sizes) != len(world.radii):
        raise ValueError(f"{world.radii=} needs one radius for each of {world.sizes=}")
    shared = {*world.colours} & {*world.background_colours, *world.wall_colours}
    if shared:
        raise ValueError(f"{sorted(shared)} are colours of objects and of backgrounds")
    if {*world.backgrounds} != {"plain"} and len(world.background_colours) < 2:
        raise ValueError(f"{world.backgrounds=} need two background_colours")
    places = world.grid_size**2 - (world.grid_size if world.sign_prob else 0)
    if not 1 <= world.min_objects <= world.max_objects <= places:
        raise ValueError(
            f"min_objects={world.min_objects} to max_objects={world.max_objects} must"
            f" lie between 1 and the {places} places"
        )
    for name, split in (
        ("train_walls", "validation"),
        ("bank_walls", "the test split"),
    ):
        if not 0 < getattr(world, name) < len(world.wall_colours):
            raise ValueError(
                f"{name}={getattr(world, name)} must leave some of the"
                f" {len(world.wall_colours)} wall_colours for {split}"
            )
    if max(world.radii) * world.cell / 2 + world.jitter > world.cell / 2:
        raise ValueError(
            f"{world.radii=} and {world.jitter=} leave the cell; lower one"
        )


QUICK = WorldConfig(
    grid_size=2,
    shapes=("circle", "square", "triangle", "cross", "ring"),
    colours=("red", "green", "blue", "yellow", "purple", "cyan"),
    sizes=("large",),
    radii=(0.75,),
    fills=("solid",),
    backgrounds=("plain",),
    background_colours=("white",),
    wall_colours=("white", "gray", "tan", "mint", "slate"),
    max_objects=3,
    jitter=0,
    sign_prob=0.0,
    num_held_out_pairs=3,
    held_out_prob=0.15,
    num_emblems=900,
    num_measured_emblems=110,
    train_walls=3,
    bank_walls=2,
)
