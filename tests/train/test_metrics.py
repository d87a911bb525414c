"""Numbers reach the file and the sinks late, whole and in order."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax.train import metrics


class Sink:
    """Remembers what it is given."""

    def __init__(self):
        self.seen = []

    def write(self, step, numbers):
        self.seen.append((step, dict(numbers)))

    def show(self, step, pictures, texts):
        self.seen.append((step, sorted(pictures), texts))

    def rewind(self, step):
        self.seen.append(("rewind", step))

    def close(self):
        self.seen.append("closed")


def test_entry_is_written_when_the_next_comes_or_at_the_end(tmp_path):
    writer = metrics.Writer(tmp_path / "m.jsonl")
    writer.write(1, {"loss": jnp.float32(2.0)})
    assert not (tmp_path / "m.jsonl").exists()
    writer.write(2, {"loss": [1.0, 2.0], "tokens": [10, 30], "steps_per_second": 4.0})
    assert metrics.read(tmp_path / "m.jsonl") == [{"step": 1, "loss": 2.0}]
    writer.close()
    assert metrics.read(tmp_path / "m.jsonl")[1] == {
        "step": 2,
        "loss": 1.5,
        "steps_per_second": 4.0,
        "tokens_per_second": 80.0,
    }


def test_sinks_get_what_the_file_gets_derived_alike(tmp_path):
    sink = Sink()
    derive = lambda numbers: {"double": 2 * numbers["loss"]}
    writer = metrics.Writer(tmp_path / "m.jsonl", sinks=[sink], derive=derive)
    writer.rewind(0)
    writer.write(1, {"loss": 2.0})
    writer.show(1, {"grid": np.zeros((2, 2, 3), np.uint8)}, {"caption": "a"})
    writer.close()
    shown = (1, ["grid"], {"caption": "a"})
    assert sink.seen == [("rewind", 0), shown, (1, {"double": 4.0}), "closed"]
    assert metrics.read(tmp_path / "m.jsonl") == [{"step": 1, "double": 4.0}]


def test_steps_that_were_skipped_do_not_count(tmp_path):
    writer = metrics.Writer(tmp_path / "m.jsonl")
    window = {
        "loss": [1.0, np.nan, 3.0],
        metrics.SKIPPED: [0, 1, 0],
        "tokens": [5, 5, 5],
    }
    writer.write(3, window)
    writer.write(4, {"loss": [np.nan], metrics.SKIPPED: [1], "tokens": [5]})
    writer.close()
    first, second = metrics.read(tmp_path / "m.jsonl")
    assert first["loss"] == 2.0 and first["tokens"] == 5.0
    assert first[metrics.SKIPPED] == pytest.approx(1 / 3)
    assert second == {"step": 4, metrics.SKIPPED: 1.0, "tokens": 5.0}


def test_number_that_is_not_finite_is_written_then_raised(tmp_path):
    writer = metrics.Writer(tmp_path / "m.jsonl")
    writer.write(7, {"loss": jnp.inf})
    with pytest.raises(FloatingPointError, match="step 7: loss is inf"):
        writer.flush()
    assert json.loads((tmp_path / "m.jsonl").read_text())["loss"] == "inf"


def test_rewind_drops_later_entries_and_a_cut_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics.Writer(path).rewind(2)
    assert [entry["step"] for entry in metrics.read(path)] == [1, 2]
