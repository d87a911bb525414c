"""Sinks beside the file: what they hold, and what is said without their package."""

import struct
import sys
import types

import numpy as np
import pytest

from cm3leon_jax.train import metrics, writers


def _events(folder):
    """The events of all files, in the order they were made: length-framed protobuf."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_ctime_ns):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_tensorboard_files_hold_numbers_pictures_and_texts(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = writers.TensorBoard(str(tmp_path / "tb"))
    writer = metrics.Writer(tmp_path / "m.jsonl", sinks=[sink])
    writer.rewind(0)
    writer.write(1, {"loss": 2.5})
    writer.show(1, {"drawn": np.full((4, 6, 3), 9, np.uint8)}, {"captions": "a crest"})
    writer.close()
    values = [v for event in _events(tmp_path / "tb") for v in event.summary.value]
    tags = {value.tag.split("/")[0]: value for value in values}
    assert tags["loss"].simple_value == 2.5
    assert (tags["drawn"].image.height, tags["drawn"].image.width) == (4, 6)
    assert tags["captions"].tensor.string_val == [b"a crest"]


def test_tensorboard_of_a_resumed_run_hides_what_is_written_again(tmp_path):
    pytest.importorskip("tensorboardX")
    for start in (0, 5):
        sink = writers.TensorBoard(str(tmp_path))
        sink.rewind(start)
        sink.write(start + 1, {"loss": 1.0})
        sink.close()
    marks = [(e.step, e.session_log.status) for e in _events(tmp_path)]
    assert (6, 1) in marks  # SessionLog.START: later steps of earlier files are void


def test_run_of_weights_and_biases_has_its_name_its_config_and_every_entry(
    tmp_path, monkeypatch
):
    seen = []
    # The three calls that are made; the service itself cannot be reached from a test.
    run = types.SimpleNamespace(
        log=lambda values, step: seen.append((step, values)),
        finish=lambda: seen.append("finished"),
    )
    fake = types.ModuleType("wandb")
    fake.init = lambda **fields: seen.append(fields) or run
    fake.Image = lambda picture: ("image", picture.shape)
    fake.Html = lambda text: ("html", text)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = writers.WeightsAndBiases(
        "cm3leon", name="run-1", folder=str(tmp_path / "w"), config={"seed": 0}
    )
    sink.write(3, {"loss": 1.0})
    sink.show(3, {"drawn": np.zeros((2, 2, 3), np.uint8)}, {"text": "<b>"})
    sink.close()
    assert (seen[0]["id"], seen[0]["resume"]) == ("run-1", "allow")
    assert seen[0]["config"] == {"seed": 0}
    shown = {"drawn": ("image", (2, 2, 3)), "text": ("html", "<pre>&lt;b&gt;</pre>")}
    assert seen[1:] == [(3, {"loss": 1.0}), (3, shown), "finished"]


@pytest.mark.parametrize("package", ["tensorboardX", "wandb"])
def test_package_that_is_missing_is_named_with_the_remedy(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"{package}; install"):
        if package == "wandb":
            writers.WeightsAndBiases("p", name="n", folder="f", config={})
        else:
            writers.TensorBoard("folder")
