import pytest

from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources import inputs
from cm3leon_jax.data.sources.row import SourceConfig


@pytest.fixture
def read():
    """All rows of a folder, refusals by reason, and the lines about them."""

    def run(root, *, strict=False, **options):
        config, refusals = SourceConfig(**options), Refusals()
        rows = [
            row
            for one in inputs.find(root, config)
            for row in inputs.rows(one, config, refusals, strict=strict)
        ]
        return rows, refusals.to_json()["by_reason"], refusals.lines

    return run
