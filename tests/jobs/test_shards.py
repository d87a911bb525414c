import dataclasses
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import tarfile
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from cm3leon_jax.data import hosts, pipeline, splits, streams
from cm3leon_jax.data import shards as shards_data
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.pictures import PictureConfig
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.data.sources.row import SourceConfig
from cm3leon_jax.data.tokenise import TokeniseConfig
from cm3leon_jax.jobs import shards

# The folder and the fake tools of the tests of the room that does the work.
_PATH = pathlib.Path(__file__).parents[1] / "data" / "test_tokenise.py"
_SPEC = importlib.util.spec_from_file_location("tokenise_fakes", _PATH)
fakes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fakes)

INFO = SetInfo(fakes.VOCAB, text_tokenizer="t", image_tokenizer="i", embedder="e")


def _job(root, pictures, rows_per_shard=4):
    return shards.Job(
        root=root,
        pictures=pictures,
        tools=fakes.make_tools(),
        info=INFO,
        splits=splits.SplitConfig(num_validation=2, num_test=3),
        picture_config=PictureConfig(image_size=16),
        tokenise=TokeniseConfig(tasks={"caption": {}, "vqa": {}, "edit": {}}),
        rows_per_shard=rows_per_shard,
        num_threads=2,
    )


def _files(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_folder_becomes_sets_and_every_row_is_counted(tmp_path):
    pictures = fakes.make_folder(tmp_path / "pictures", count=20, bad=(3, 7))
    summary = shards.write(_job(tmp_path / "shards", pictures))
    sizes = {
        name: {split: size["records"] for split, size in sets.items()}
        for name, sets in summary["sets"].items()
    }
    assert sum(sizes["pairs"].values()) == 18
    assert "test" not in sizes["caption"] and sizes["vqa"]["train"] >= 3 * 13
    counted = json.loads((tmp_path / "shards" / "refusals.json").read_text())
    assert (counted["accepted"], counted["refused"], counted["total"]) == (18, 2, 20)
    source = shards_data.open(tmp_path / "shards" / "pairs", "train")
    records = source.records(range(len(source)))
    assert len(records[0].query_text_vector) == 2
    assert len({record.id for record in records}) == sizes["pairs"]["train"]


def test_folders_of_splits_are_taken_at_their_word(tmp_path):
    for split, count in (("train", 5), ("validation", 2), ("test", 3), ("bank", 4)):
        fakes.make_folder(tmp_path / "scenes" / split, count)
    summary = shards.write(_job(tmp_path / "shards", tmp_path / "scenes"))
    pairs = {k: v["records"] for k, v in summary["sets"]["pairs"].items()}
    assert pairs == {"train": 5, "validation": 2, "test": 3, "bank": 4}
    assert set(summary["sets"]["edit"]) == {"train", "validation"}


def test_an_interrupted_job_goes_on_and_writes_the_same_bytes(tmp_path, monkeypatch):
    pictures = fakes.make_folder(tmp_path / "pictures", count=20)
    shards.write(_job(tmp_path / "whole", pictures))
    real, calls = shards._write_chunk, []

    def interrupted(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(shards, "_write_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shards.write(_job(tmp_path / "again", pictures))
    monkeypatch.setattr(shards, "_write_chunk", real)
    shards.write(_job(tmp_path / "again", pictures))
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")


def test_a_set_without_examples_is_left_out(tmp_path):
    pictures = fakes.make_folder(tmp_path / "pictures", count=12, edit=False)
    summary = shards.write(_job(tmp_path / "shards", pictures))
    assert set(summary["sets"]) == {"pairs", "caption", "vqa"}


def _tars(root, counts=(9, 1, 7, 12)):
    """Archives of some pictures each; one picture of each is damaged."""
    root.mkdir()
    for number, count in enumerate(counts):
        with tarfile.open(root / f"{number:05d}.tar", "w") as archive:
            for index in range(count):
                buffer = io.BytesIO()
                Image.new("RGB", (16, 16), (index * 9, number, 0)).save(buffer, "PNG")
                picture = buffer.getvalue() if index != 2 else b"damaged"
                for suffix, data in ((".png", picture), (".txt", b"a caption")):
                    member = tarfile.TarInfo(f"{number * 10 + index:09d}{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root


def _on_hosts(job, num_hosts, monkeypatch):
    """Runs a job on several hosts at once; returns what each says."""
    monkeypatch.setattr(hosts, "_SECONDS", 0.01)
    jobs = [
        dataclasses.replace(job, hosts=Hosts(host, num_hosts), tools=fakes.make_tools())
        for host in range(num_hosts)
    ]
    with futures.ThreadPoolExecutor(num_hosts) as pool:
        return list(pool.map(shards.write, jobs))


@pytest.mark.parametrize("num_hosts", [2, 3, 9])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_hosts_together_write_what_one_writes(tmp_path, monkeypatch, kind, num_hosts):
    if kind == "tar":
        pictures = _tars(tmp_path / "pictures")
    else:
        pictures = fakes.make_folder(tmp_path / "pictures", count=20, bad=(3, 7))
    whole = shards.write(_job(tmp_path / "whole", pictures))
    first, *others = _on_hosts(
        _job(tmp_path / "some", pictures), num_hosts, monkeypatch
    )
    assert first == whole and others == [None] * (num_hosts - 1)
    assert _files(tmp_path / "some") == _files(tmp_path / "whole")
    assert first["sets"]["pairs"]["train"]["records"] >= 13
    lines = json.loads((tmp_path / "some" / "refusals.json").read_text())["lines"]
    wanted = "00000.tar:000000002.png" if kind == "tar" else "0003.png"
    assert sum(wanted in line for line in lines) == 1


_PROCESS = """
import dataclasses, importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("tests_of_shards", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
job = tests._job(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
hosts = tests.Hosts(int(sys.argv[4]), 2)
tests.shards.write(dataclasses.replace(job, hosts=hosts))
"""


def test_two_processes_write_what_one_writes(tmp_path):
    pictures = _tars(tmp_path / "pictures")
    shards.write(_job(tmp_path / "whole", pictures))
    command = [sys.executable, "-c", _PROCESS, __file__, tmp_path / "some", pictures]
    processes = [subprocess.Popen([*command, str(host)]) for host in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert _files(tmp_path / "some") == _files(tmp_path / "whole")


def test_another_number_of_hosts_goes_on_where_some_stopped(tmp_path, monkeypatch):
    pictures = _tars(tmp_path / "pictures")
    shards.write(_job(tmp_path / "whole", pictures))
    again = _job(tmp_path / "again", pictures)
    shards.write(again)
    for name in ("train-00002", "train-00004", "test-00000"):
        again.mark(name).unlink()
    _on_hosts(again, 2, monkeypatch)
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")


def test_changed_inputs_are_refused_on_resuming(tmp_path):
    pictures = _tars(tmp_path / "pictures")
    job = _job(tmp_path / "shards", pictures)
    shards.write(job)
    for mark in (tmp_path / "shards" / "progress").glob("train-*"):
        mark.unlink()
    (tmp_path / "pictures" / "00003.tar").write_bytes(bytes(1024))
    with pytest.raises(ValueError, match="fewer rows than when it was listed"):
        shards.write(job)


def test_the_data_card_counts_what_is_there_and_what_is_not(tmp_path):
    pictures = fakes.make_folder(tmp_path / "pictures", count=20, bad=(3, 7))
    lines = [json.loads(line) for line in (pictures / "metadata.jsonl").open()]
    for index, licence in ((0, "all | rights"), (1, "CC-BY")):
        lines[index]["licence"] = licence
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = SourceConfig(licences=("cc0", "CC-BY"), source="mine")
    job = dataclasses.replace(_job(tmp_path / "shards", pictures), source=source)
    shards.write(job)
    card = json.loads((job.root / "pairs" / "card.json").read_text())
    counts = card["splits"].values()
    assert sum(one["documents"] for one in counts) == 17
    assert sum(one["licences"].get("CC0", 0) for one in counts) == 16
    assert sum(one["sources"]["mine"] for one in counts) == 17
    assert sum(one["caption_lengths"]["4"] for one in counts) == 17  # 9 tokens each
    assert card["refusals"] == {
        "accepted": 17,
        "refused": 3,
        "total": 20,
        "by_reason": {"licence": 1, "unreadable": 2},
    }
    page = (job.root / "pairs" / "card.md").read_text()
    assert "| CC-BY | 1 |" in page and "17 rows accepted + 3 refused = 20" in page


def test_interleaved_documents_go_all_the_way_to_training_rows(tmp_path):
    root = tmp_path / "documents"
    root.mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(root / f"{number}.png")
    shown = [{"image": f"{number}.png"} for number in range(3)]
    kinds = [
        ["one ", shown[0], "two", shown[1], shown[2], "<break> </s> <sentinel:0>"],
        ["text alone"],
        [shown[2]],
    ]
    lines = [json.dumps({"parts": kinds[k % 3], "licence": "CC0"}) for k in range(24)]
    (root / "train.jsonl").write_text("\n".join(lines))
    shards.write(_job(tmp_path / "shards", root))
    source = shards_data.open(tmp_path / "shards" / "pairs", "train")
    record = source.records([0])[0]
    np.testing.assert_array_equal(record.modality, [0, 1, 0, 1, 1, 0])
    document = record.document(fakes.VOCAB)
    np.testing.assert_array_equal(
        fakes.VOCAB.codes(document.segments[4].ids), [120] * 4
    )
    spelt = bytes((document.segments[5].ids - 4).tolist()).decode()
    assert spelt == "<break> </s> <sentinel:0>"
    for packing in ("whole", "cut"):
        config = streams.LoaderConfig(
            max_length=128, batch_size=2, num_streams=1, packing=packing
        )
        spec = pipeline.SetSpec(str(tmp_path / "shards" / "pairs"))
        batch = next(iter(pipeline.load([spec], config, prefetch=0)))
        assert batch.tokens_BL.shape == (2, 128)
        assert fakes.VOCAB.is_image(batch.tokens_BL).any()
