import copy
import dataclasses
import json
import pathlib
import socket
import subprocess
import sys
from concurrent import futures

import jax
import ml_collections
import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import pipeline, shards
from cm3leon_jax.data import retrieve as data_retrieve
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.record import Record
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.data.streams import LoaderConfig
from cm3leon_jax.jobs import retrieve
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=90, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i", embedder="e")
SIZES = {"train": 24, "validation": 6, "test": 5, "bank": 7}


@pytest.fixture(autouse=True)
def small_searches(request, monkeypatch):
    """Few queries on one device, which compile soon; one test has the bank on all."""
    monkeypatch.setattr(data_retrieve, "_BATCH", 16)
    if request.function is not test_what_is_between_is_deleted:
        monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


def _unit(rng):
    vector = rng.normal(size=8)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def _records(split, count, has_vectors):
    rng = np.random.default_rng(len(split))
    made = []
    for index in range(count):
        fields = {"text_vector": _unit(rng), "image_vector": _unit(rng)}
        if split == "train":
            fields["query_text_vector"] = fields["text_vector"]
            fields["query_image_vector"] = fields["image_vector"]
        # The first token names the split, the second the document.
        tokens = [len(split), index, VOCAB.break_id, *VOCAB.image_ids(np.arange(4))]
        record = Record(
            id=f"{split}-{index}",
            tokens=np.array(tokens, np.uint16),
            modality=np.array([0, 1], np.uint8),
            **(fields if has_vectors else {}),
        )
        made.append(record)
    return made


def _shards(root, sizes=None, has_vectors=True, twin=None):
    made = {
        split: _records(split, count, has_vectors)
        for split, count in (sizes or SIZES).items()
    }
    if twin is not None:
        first = made["test"][0]
        made["train"][twin] = dataclasses.replace(
            made["train"][twin],
            text_vector=first.text_vector,
            image_vector=first.image_vector,
        )
    written = {
        split: [shards.write_shard(root / "pairs", split, 0, some)]
        for split, some in made.items()
    }
    shards.finish(root / "pairs", INFO, written)
    storage.write_json(root / "pairs" / "card.json", {"made_by": "a test"})
    storage.write_bytes(root / "pairs" / "card.md", b"# pairs")
    caption = shards.write_shard(
        root / "caption", "train", 0, _records("train", 3, False)
    )
    shards.finish(root / "caption", INFO, {"train": [caption]})
    storage.write_json(root / "vocab.json", VOCAB.to_json())
    return root


def _config(source, **changes):
    return ml_collections.ConfigDict(
        {
            "job": "retrieve",
            "shards": str(source),
            "bank": ("train", "bank"),
            "train_bank": ("train",),
            "strategy": {
                "num_by_image": 2,
                "num_by_text": 2,
                "num_candidates": 16,
                "max_similarity": 0.9,
                "min_score": -1.0,
                "prefer_multimodal": True,
            },
            "index": {
                "backend": "jax",
                "chunk_size": 8_192,
                "dtype": "float32",
                "approximate_recall": 0.0,
            },
            "evaluation": {
                "splits": ("validation", "test"),
                "sets": (),
                "max_similarity": 1.0,
            },
            "neighbors": "",
            "join": "inline",
            "rows_per_shard": 10,
            **changes,
        }
    )


def _read(folder, split):
    source = shards.open(folder / "pairs", split)
    return source.records(range(len(source)))


def test_neighbours_come_with_the_tokens_of_their_bank_document(tmp_path):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "out"))
    for split in SIZES:
        for index, record in enumerate(_read(tmp_path / "out", split)):
            near = record.neighbors
            assert len(near.ids) == 4 and record.id == f"{split}-{index}"
            np.testing.assert_array_equal(near.by_image, [True, True, False, False])
            for place, tokens in zip(near.ids, near.tokens, strict=True):
                name = ("train", place) if place < 24 else ("bank", place - 24)
                assert (tokens[0], tokens[1]) == (len(name[0]), name[1])
                assert name != (split, index)  # never the document itself
                assert name[0] == "train" or split != "train"


def test_the_other_sets_and_the_vocabulary_are_found_beside(tmp_path):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "out"))
    assert len(shards.open(tmp_path / "out" / "caption", "train")) == 3
    assert Vocab.from_json(storage.read_json(tmp_path / "out" / "vocab.json")) == VOCAB
    joined = shards.open(tmp_path / "out" / "pairs", "train")
    shards.check(joined, INFO)
    assert joined.info.bank
    for name in ("card.json", "card.md"):
        kept = tmp_path / "out" / "pairs" / name
        assert kept.read_bytes() == (source / "pairs" / name).read_bytes()


def test_an_interrupted_job_goes_on_and_writes_the_same_bytes(tmp_path, monkeypatch):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "whole"))
    real, calls = shards.write_shard, []

    def interrupted(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retrieve.run(_config(source), str(tmp_path / "again"))
    monkeypatch.setattr(shards, "write_shard", real)
    retrieve.run(_config(source), str(tmp_path / "again"))
    for path in sorted((tmp_path / "whole").rglob("*array_record*")):
        twin = tmp_path / "again" / path.relative_to(tmp_path / "whole")
        assert twin.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("join", ["inline", "ids"])
def test_any_number_of_hosts_writes_the_bytes_of_one(tmp_path, join):
    config = _config(_shards(tmp_path / "shards"), join=join, rows_per_shard=4)
    retrieve.run(config, str(tmp_path / "alone"))
    jobs = [
        retrieve.make_job(config, str(tmp_path / "many"), Hosts(host, 3))
        for host in range(3)
    ]
    # Threads for processes: hosts meet in files alone.
    with futures.ThreadPoolExecutor(3) as pool:
        summaries = list(pool.map(data_retrieve.write, jobs))
    assert summaries[0] and not any(summaries[1:])
    paths = sorted((tmp_path / "alone" / "pairs").iterdir())
    assert len(paths) == len(list((tmp_path / "many" / "pairs").iterdir())) > 10
    for path in paths:
        assert (tmp_path / "many" / "pairs" / path.name).read_bytes() == (
            path.read_bytes()
        ), path.name


def _same_files(found, expected):
    names = [sorted(p.name for p in (x / "pairs").iterdir()) for x in (found, expected)]
    assert names[0] == names[1]
    return all(
        (found / "pairs" / name).read_bytes()
        == (expected / "pairs" / name).read_bytes()
        for name in names[0]
    )


def _pod(config):
    config = copy.deepcopy(config)
    config.index.backend = "pod"
    return config


def test_a_bank_over_many_devices_gives_the_bytes_of_one(tmp_path):
    source = _shards(tmp_path / "shards", twin=3)
    held_out = {"splits": ("test",), "sets": (), "max_similarity": 0.9}
    config = _config(source, rows_per_shard=5, evaluation=held_out)
    retrieve.run(config, str(tmp_path / "one"))
    retrieve.run(_pod(config), str(tmp_path / "pod"))
    assert _same_files(tmp_path / "pod", tmp_path / "one")


_PROCESS = """
import json, os, sys
import ml_collections
host, port, path, workdir = sys.argv[1:]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ.update(
    CM3LEON_HOSTS="2", CM3LEON_HOST=host, CM3LEON_COORDINATOR=f"127.0.0.1:{port}"
)
from cm3leon_jax.jobs import retrieve
retrieve.run(ml_collections.ConfigDict(json.load(open(path))), workdir)
"""


@pytest.mark.slow
def test_two_processes_search_a_bank_that_neither_holds(tmp_path):
    # Nine parts of the training split and two of others: the hosts' shares differ.
    config = _config(_shards(tmp_path / "shards"), rows_per_shard=3)
    retrieve.run(config, str(tmp_path / "one"))
    path = tmp_path / "config.json"
    path.write_text(_pod(config).to_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", _PROCESS]
    rest = [str(port), str(path), str(tmp_path / "pod")]
    hosts = [subprocess.Popen([*command, str(host), *rest]) for host in range(2)]
    assert [host.wait(200) for host in hosts] == [0, 0]
    assert _same_files(tmp_path / "pod", tmp_path / "one")


def test_neighbours_by_number_load_as_those_inline(tmp_path):
    source = _shards(tmp_path / "shards")
    loader = LoaderConfig(max_length=64, batch_size=4, num_streams=2, open_rows=2)
    batches = []
    for join in ("inline", "ids"):
        retrieve.run(_config(source, join=join), str(tmp_path / join))
        spec = pipeline.SetSpec(str(tmp_path / join / "pairs"))
        rows = iter(pipeline.load([spec], loader, prefetch=0))
        batches.append([next(rows) for _ in range(3)])
    for left, right in zip(*batches, strict=True):
        for one, other in zip(left, right, strict=True):
            np.testing.assert_array_equal(one, other)
    near = _read(tmp_path / "ids", "train")[0].neighbors
    assert len(near.ids) == 4 and not any(map(len, near.tokens))
    (tmp_path / "ids" / "bank.json").unlink()
    spec = pipeline.SetSpec(str(tmp_path / "ids" / "pairs"))
    with pytest.raises(FileNotFoundError, match="again"):
        next(iter(pipeline.load([spec], loader, prefetch=0)))


def test_near_duplicates_of_evaluation_documents_are_kept_out_and_counted(tmp_path):
    source = _shards(tmp_path / "shards", twin=3)  # train-3 is test-0 again
    config = _config(source)
    config.evaluation.max_similarity = 0.9
    config.strategy.max_similarity = 1.0
    retrieve.run(config, str(tmp_path / "out"))
    done = storage.read_json(tmp_path / "out" / "done.json")
    assert done["kept_out"]["train"] >= 1
    assert done["evaluation_documents"] == SIZES["validation"] + SIZES["test"]
    kept_out = storage.load_arrays(tmp_path / "out" / "kept_out.safetensors")[0]["ids"]
    assert 3 in kept_out
    for split in SIZES:
        for record in _read(tmp_path / "out", split):
            assert not np.isin(record.neighbors.ids, kept_out).any()
    config.evaluation.max_similarity = 1.0
    retrieve.run(config, str(tmp_path / "all"))
    near = _read(tmp_path / "all", "test")[0].neighbors
    assert near.ids[0] == 3  # without the rule its twin is found first


def test_ready_made_lists_are_taken_as_they_are(tmp_path):
    lines = [
        {"id": "train-0", "neighbors": ["train-5", "bank-1", "train-0", "gone"]},
        {"id": "test-1", "neighbors": ["bank-0"], "scores": [0.5], "by_image": [True]},
    ]
    path = tmp_path / "lists.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    source = _shards(tmp_path / "shards", has_vectors=False)
    retrieve.run(_config(source, neighbors=str(path)), str(tmp_path / "out"))
    near = _read(tmp_path / "out", "train")[0].neighbors
    np.testing.assert_array_equal(near.ids, [5, 24 + 1])
    assert near.tokens[0][1] == 5 and near.tokens[1][0] == len("bank")
    near = _read(tmp_path / "out", "test")[1].neighbors
    assert near.scores == [0.5] and near.by_image.all()
    assert not len(_read(tmp_path / "out", "train")[1].neighbors.ids)
    assert storage.read_json(tmp_path / "out" / "done.json")["unknown"] == 1


@pytest.mark.parametrize(
    "line", ["[1]", "{", '{"id": "a"}', '{"id": "a", "neighbors": ["b"], "scores": []}']
)
def test_a_malformed_list_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"id": "train-0", "neighbors": []}\n' + line)
    source = _shards(tmp_path / "shards", has_vectors=False)
    with pytest.raises(ValueError, match="line 2"):
        retrieve.run(_config(source, neighbors=str(path)), str(tmp_path / "out"))


def test_what_is_between_is_deleted(tmp_path):
    source = _shards(tmp_path / "shards")
    retrieve.run(_config(source), str(tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert names == {"pairs", "caption", "progress"}


def test_a_folder_without_a_bank_split_searches_its_training_split(tmp_path):
    sizes = {"train": 24, "validation": 6}
    source = _shards(tmp_path / "shards", sizes)
    retrieve.run(_config(source), str(tmp_path / "out"))
    for record in _read(tmp_path / "out", "validation"):
        assert (record.neighbors.ids < 24).all() and len(record.neighbors.ids) == 4


def test_shards_without_vectors_or_bank_are_refused(tmp_path):
    source = _shards(tmp_path / "plain", has_vectors=False)
    with pytest.raises(ValueError, match="no vectors"):
        retrieve.run(_config(source), str(tmp_path / "a"))
    source = _shards(tmp_path / "shards")
    with pytest.raises(ValueError, match="names no split"):
        retrieve.run(_config(source, bank=("other",)), str(tmp_path / "b"))
    with pytest.raises(FileNotFoundError):
        retrieve.run(_config(pathlib.Path("/none")), str(tmp_path / "c"))
