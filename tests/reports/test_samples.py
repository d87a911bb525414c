import dataclasses

import numpy as np

from cm3leon_jax.reports import samples
from cm3leon_jax.reports.samples import Sample


def _picture(value):
    return np.full((4, 4, 3), value, np.uint8)


def test_samples_survive_the_disk(tmp_path):
    made = [
        Sample("objects", "a red ring", 1.0, "a", "b", True, None, _picture(1)),
        Sample("emblems_2", "é", None, neighbours=(_picture(2), _picture(3))),
    ]
    samples.write(tmp_path, made)
    again = samples.read(tmp_path)
    assert len(again) == len(made)
    for before, after in zip(made, again, strict=True):
        for field in dataclasses.fields(Sample):
            np.testing.assert_array_equal(
                getattr(before, field.name), getattr(after, field.name)
            )


def test_folder_without_samples_has_none(tmp_path):
    assert samples.read(tmp_path) == []
