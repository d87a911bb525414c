"""Boxes of pictures whose insides count more when pixels are learnt: objects, faces.

Letters: N pictures, M boxes a picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cm3leon_jax.data import loading, pictures
from cm3leon_jax.data.refusals import Refusals, RefusedError
from cm3leon_jax.data.sources.row import Row


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """How much boxes count.

    Attributes:
      object_weight: of a box.
      face_weight: of a box whose name is one of `face_names`, in its place.
      face_names: names of boxes around faces, in lower case.
      max_boxes: boxes of a picture that are used, the largest ones.
      min_side: least side of a box, as a share of the picture.
    """

    object_weight: float = 0.0
    face_weight: float = 0.0
    face_names: tuple[str, ...] = ("face",)
    max_boxes: int = 8
    min_side: float = 0.05

    def __post_init__(self):
        """Refuses weights that would reward errors."""
        if min(self.object_weight, self.face_weight) < 0 or self.max_boxes < 1:
            raise ValueError(
                f"{self.object_weight=} and {self.face_weight=} must not be below 0,"
                f" {self.max_boxes=} not below 1"
            )

    @property
    def is_used(self) -> bool:
        """Whether any box counts."""
        return bool(self.object_weight or self.face_weight)


def read(
    rows: Sequence[Row],
    config: CropConfig,
    picture_config: pictures.PictureConfig,
    refusals: Refusals,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the boxes of the rows' pictures.

    A row whose boxes are malformed is counted as refused, and its picture is used
    without them.

    Returns:
      float32[N, M, 4], x0, y0, x1, y1 as shares of the picture, and float32[N, M], the
      weights, 0 where there is no box.
    """
    boxes_NM4 = np.zeros((len(rows), config.max_boxes, 4), np.float32)
    weights_NM = np.zeros(boxes_NM4.shape[:2], np.float32)
    for number, row in enumerate(rows):
        try:
            found = loading.named_boxes(row.picture, row.columns, picture_config)
        except RefusedError as error:
            refusals.refuse(f"{row.place}, column boxes", error)
            continue
        sized = sorted(found, key=lambda one: _area(one.corners), reverse=True)
        for place, one in enumerate(sized[: config.max_boxes]):
            x0, y0, x1, y1 = one.corners
            if min(x1 - x0, y1 - y0) < config.min_side:
                continue
            is_face = one.name.lower() in config.face_names
            boxes_NM4[number, place] = one.corners
            weights_NM[number, place] = (
                config.face_weight if is_face else config.object_weight
            )
    return boxes_NM4, weights_NM


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
