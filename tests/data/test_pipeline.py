import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from cm3leon_jax import storage
from cm3leon_jax.data import pipeline, record, shards
from cm3leon_jax.data.pipeline import SetSpec
from cm3leon_jax.data.record import Neighbors, Record
from cm3leon_jax.data.shards import SetInfo
from cm3leon_jax.data.streams import LoaderConfig
from cm3leon_jax.documents import cm3
from cm3leon_jax.documents.cm3 import CM3Config
from cm3leon_jax.documents.packing import LossWeights
from cm3leon_jax.vocab import Vocab

VOCAB = Vocab(
    text_size=200, image_size=16, control_size=40, num_sentinels=20, codes_per_image=4
)
INFO = SetInfo(VOCAB, text_tokenizer="t", image_tokenizer="i")
PLAIN = CM3Config(span_rate=0.0)
SMALL = LoaderConfig(
    max_length=64,
    batch_size=8,
    num_streams=4,
    neighbor_probs=(0.5, 0.25, 0.25),
    read_ahead=8,
    open_rows=3,
)


def _record(index, first, num_neighbors=4, text_length=None):
    rng = np.random.default_rng(index)
    codes = VOCAB.image_ids(rng.integers(0, 16, 4))
    # The first text id names the document, so that a test can recognise it.
    text = [first + index, *rng.integers(10, 20, text_length or rng.integers(2, 9))]
    tokens = np.array([*text, VOCAB.break_id, *codes], np.uint16)
    near = np.array([30, VOCAB.break_id, *codes], np.uint16)
    neighbors = Neighbors(
        np.arange(num_neighbors, dtype=np.int32),
        np.zeros(num_neighbors, np.float32),
        np.zeros(num_neighbors, bool),
        (near,) * num_neighbors,
    )
    return Record(
        id=str(index),
        tokens=tokens,
        modality=np.array([0, 1], np.uint8),
        target=(1, 3),
        neighbors=neighbors if num_neighbors else record.NO_NEIGHBORS,
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    for name, first, count in (("pairs", 100, 50), ("caption", 150, 30)):
        written = [
            shards.write_shard(
                root / name, "train", k, [_record(i, first) for i in range(k, count, 2)]
            )
            for k in range(2)
        ]
        shards.finish(root / name, INFO, {"train": written})
    return [
        SetSpec(str(root / "pairs"), weight=3.0),
        SetSpec(str(root / "caption"), weight=1.0),
    ]


def _sequences(batch):
    """The ids of every packed sequence, spans put back."""
    found = []
    for row in range(len(batch.tokens_BL)):
        for number in range(1, batch.segment_ids_BL[row].max() + 1):
            inside = batch.segment_ids_BL[row] == number
            ids = [*batch.tokens_BL[row, inside], batch.targets_BL[row, inside][-1]]
            found.append(cm3.restore(np.array(ids), VOCAB))
    return found


def _assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("packing", ["whole", "cut"])
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_together_see_the_batches_of_one(sets, packing, num_hosts):
    config = dataclasses.replace(SMALL, packing=packing)
    alone = iter(pipeline.load(sets, config, prefetch=0))
    hosts = [
        iter(pipeline.load(sets, config, host_index=h, num_hosts=num_hosts, prefetch=0))
        for h in range(num_hosts)
    ]
    for _ in range(5):
        whole = next(alone)
        parts = [next(host) for host in hosts]
        _assert_equal(
            whole, [np.concatenate(fields) for fields in zip(*parts, strict=True)]
        )


@pytest.mark.parametrize("packing", ["whole", "cut"])
def test_workers_make_the_batches_of_one(sets, packing):
    config = dataclasses.replace(SMALL, packing=packing)
    alone = pipeline.load(sets, config, prefetch=0)
    many = pipeline.load(sets, config, prefetch=2, num_workers=3)
    batches, others = iter(alone), iter(many)
    for _ in range(12):
        _assert_equal(next(batches), next(others))


@pytest.mark.parametrize("packing", ["whole", "cut"])
def test_a_state_that_is_restored_and_saved_at_once_is_the_same(sets, packing):
    config = dataclasses.replace(SMALL, packing=packing)
    iterator = iter(pipeline.load(sets, config, prefetch=0))
    for _ in range(7):
        next(iterator)
    state = iterator.get_state()
    other = iter(pipeline.load(sets, config, prefetch=0))
    other.set_state(state)
    assert other.get_state() == state
    next(iterator), next(other)
    assert other.get_state() == iterator.get_state()


def test_cut_rows_keep_neighbours_that_no_row_could_hold_whole(sets):
    # Sequences of up to 30 ids, rows of 16.
    config = dataclasses.replace(
        SMALL, packing="cut", max_length=16, cm3=PLAIN, neighbor_probs=(0, 0, 0, 1.0)
    )
    dataset = pipeline.load(sets, config, prefetch=0)
    batches = iter(dataset)
    for _ in range(5):
        next(batches)
    assert not dataset.counts.neighbors_dropped and not dataset.counts.too_long
    assert dataset.counts.neighbors == 3 * dataset.counts.documents


def test_pictures_that_rows_cut_are_counted(sets):
    config = dataclasses.replace(SMALL, packing="cut", max_length=16, cm3=PLAIN)
    dataset = pipeline.load(sets, config, prefetch=0)
    batches = iter(dataset)
    made = [next(batches) for _ in range(6)]
    firsts = np.stack([batch.tokens_BL[:, 0] for batch in made])
    lasts = np.stack([batch.targets_BL[:, -1] for batch in made])
    # Two rows a stream and batch, one after the other.
    firsts, lasts = (x.reshape(6, 4, 2).swapaxes(1, 2) for x in (firsts, lasts))
    firsts, lasts = (x.reshape(12, 4) for x in (firsts, lasts))
    cut = VOCAB.is_image(lasts[:-1]) & VOCAB.is_image(firsts[1:])
    # What comes behind the last row of each stream is not in any batch.
    assert 5 < cut.sum() <= dataset.counts.pictures_cut <= cut.sum() + 4


def test_the_number_of_spans_in_a_cut_row_is_poisson(tmp_path):
    records = [_record(i, 100, text_length=700) for i in range(40)]
    written = shards.write_shard(tmp_path / "pairs", "train", 0, records)
    shards.finish(tmp_path / "pairs", INFO, {"train": [written]})
    config = dataclasses.replace(
        SMALL, packing="cut", max_length=256, batch_size=256, neighbor_probs=(1.0,)
    )
    batches = iter(pipeline.load([SetSpec(str(tmp_path / "pairs"))], config))
    rows = np.concatenate([next(batches).tokens_BL for _ in range(12)])
    causal = (~VOCAB.is_sentinel(rows)).all(axis=1).mean()
    # Four standard errors of a share of 3,072 rows, and the few spans that meet
    # nothing but a mark.
    assert np.exp(-1) - 0.035 < causal < np.exp(-1) + 0.045


@pytest.mark.parametrize("packing", ["whole", "cut"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_restored_state_gives_the_same_batches(sets, packing, prefetch):
    config = dataclasses.replace(SMALL, packing=packing)
    dataset = pipeline.load(sets, config, prefetch=prefetch)
    iterator = iter(dataset)
    for step in range(40):
        if step in (0, 1, 17):
            state = json.loads(json.dumps(iterator.get_state()))
            following = [next(iterator) for _ in range(3)]
            other = iter(pipeline.load(sets, config, prefetch=prefetch))
            other.set_state(state)
            for batch in following:
                _assert_equal(batch, next(other))
        next(iterator)
    assert len(json.dumps(iterator.get_state())) < 1000


_FRESH = """
import json, sys
from cm3leon_jax.data import pipeline
from tests.data import test_pipeline as here
specs, packing, states = json.load(sys.stdin)
sets = [here.SetSpec(*spec) for spec in specs]
config = here.dataclasses.replace(here.SMALL, packing=packing)
for state in states:
    iterator = iter(pipeline.load(sets, config, prefetch=0))
    iterator.set_state(state)
    print(*(here.digest(next(iterator)) for _ in range(3)))
"""


def digest(batch):
    return storage.digest_bytes(b"".join(np.asarray(x).tobytes() for x in batch))


@pytest.mark.parametrize("packing", ["whole", "cut"])
def test_every_place_of_forty_is_gone_on_from_in_a_fresh_process(sets, packing):
    """Over several rounds of the sets, with rows that are open."""
    config = dataclasses.replace(SMALL, packing=packing)
    iterator = iter(pipeline.load(sets, config, prefetch=0))
    states, digests = [], []
    for _ in range(42):
        states.append(json.loads(json.dumps(iterator.get_state())))
        digests.append(digest(next(iterator)))
    given = json.dumps([[dataclasses.astuple(s) for s in sets], packing, states[:40]])
    command = [sys.executable, "-c", _FRESH]
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=True, timeout=200
    )
    told = [line.split() for line in done.stdout.splitlines()]
    assert told == [digests[k : k + 3] for k in range(40)]
    assert len({*digests}) == 42


def test_a_state_is_restored_within_50_ms(sets):
    iterator = iter(pipeline.load(sets, SMALL, prefetch=0))
    for _ in range(100):
        next(iterator)
    state = iterator.get_state()
    fresh = iter(pipeline.load(sets, SMALL, prefetch=0))
    start = time.perf_counter()
    fresh.set_state(state)
    assert time.perf_counter() - start < 0.05


def test_a_state_from_before_slots_were_kept_is_read(sets):
    iterator = iter(pipeline.load(sets, SMALL, prefetch=0))
    for _ in range(5):
        next(iterator)
    state = iterator.get_state()
    for stream in state["streams"].values():
        del stream["slots"]
    other = iter(pipeline.load(sets, SMALL, prefetch=0))
    other.set_state(state)
    for _ in range(3):
        _assert_equal(next(iterator), next(other))


def test_other_data_or_configs_refuse_a_state(sets):
    state = iter(pipeline.load(sets, SMALL, prefetch=0)).get_state()
    for specs, config in (
        (sets[:1], SMALL),
        (sets, dataclasses.replace(SMALL, seed=1)),
    ):
        with pytest.raises(ValueError, match="other shards"):
            iter(pipeline.load(specs, config, prefetch=0)).set_state(state)


def test_a_set_written_again_with_other_documents_refuses_a_state(tmp_path):
    states = []
    for first in (100, 100, 200):
        made = [_record(index, first) for index in range(20)]
        written = shards.write_shard(tmp_path / "pairs", "train", 0, made)
        shards.finish(tmp_path / "pairs", INFO, {"train": [written]})
        specs = [SetSpec(str(tmp_path / "pairs"))]
        iterator = iter(pipeline.load(specs, SMALL, prefetch=0))
        states.append(iterator.get_state())
    assert states[0] == states[1]
    with pytest.raises(ValueError, match="other shards"):
        iterator.set_state(states[0])


def test_whole_packing_keeps_every_sequence_whole(sets):
    iterator = iter(pipeline.load(sets, SMALL, prefetch=0))
    batches = [next(iterator) for _ in range(20)]
    for ids in (ids for batch in batches for ids in _sequences(batch)):
        assert ids[0] == VOCAB.EOS and ids[-1] == VOCAB.EOS
        pieces = np.split(ids[1:-1], np.flatnonzero(ids[1:-1] == VOCAB.break_id))
        pictures = [piece for piece in pieces if VOCAB.is_image(piece[-1])]
        assert all(VOCAB.is_image(piece[-4:]).all() for piece in pictures)
    real = np.mean([(batch.segment_ids_BL > 0).mean() for batch in batches])
    assert real > 0.85


def test_cut_rows_are_full_and_hold_the_stream_in_order(sets):
    config = dataclasses.replace(SMALL, packing="cut", cm3=PLAIN, num_streams=1)
    iterator = iter(pipeline.load(sets, config, prefetch=0))
    batches = [next(iterator) for _ in range(4)]
    for batch in batches:
        assert (batch.segment_ids_BL == 1).all()
        np.testing.assert_array_equal(batch.positions_BL, [np.arange(64)] * 8)
        np.testing.assert_array_equal(batch.tokens_BL[:, 1:], batch.targets_BL[:, :-1])
    rows = [[*b.tokens_BL[r], b.targets_BL[r, -1]] for b in batches for r in range(8)]
    whole = np.concatenate(rows)
    ends = np.flatnonzero(whole[:-1] == VOCAB.EOS)
    assert (whole[ends[1::2] + 1] == VOCAB.EOS).all()  # `</s> </s>` between documents


def test_the_number_of_neighbours_follows_its_distribution(sets):
    config = dataclasses.replace(SMALL, cm3=PLAIN, neighbor_probs=(0.2, 0.5, 0.3))
    iterator = iter(pipeline.load(sets, config, prefetch=0))
    sequences = [ids for _ in range(120) for ids in _sequences(next(iterator))]
    numbers = [np.sum(ids == 30) for ids in sequences]
    share = np.bincount(numbers, minlength=3) / len(numbers)
    error = 4 * 0.5 / np.sqrt(len(numbers))
    np.testing.assert_allclose(share, [0.2, 0.5, 0.3], atol=error)


def test_weights_follow_their_tokens_through_the_rewrite(sets):
    config = dataclasses.replace(
        SMALL,
        neighbor_probs=(0.0, 1.0),
        cm3=CM3Config(target_mask_prob=1.0),
        weights=LossWeights(retrieved=0.25, sentinel=0.0, context=0.5),
    )
    batch = next(iter(pipeline.load(sets, config, prefetch=0)))
    weights, targets = batch.weights_BL, batch.targets_BL
    assert (weights[VOCAB.is_sentinel(targets)] == 0).all()
    assert (weights[targets == VOCAB.end_of_infill_id] == 1).all()
    assert (weights[targets == 30] == 0.25).all()  # the neighbour's text
    names = (targets >= 100) & (targets < VOCAB.text_size)
    assert names.any() and (weights[names] == 0.5).all()
    starts = batch.positions_BL[:, 1:] == 0
    assert (weights[batch.segment_ids_BL == 0] == 0).all() and starts.any()


def test_targets_are_the_infill_when_asked(sets):
    for packing in ("whole", "cut"):
        config = dataclasses.replace(
            SMALL, packing=packing, cm3=CM3Config(target_mask_prob=1.0)
        )
        batch = next(iter(pipeline.load(sets, config, prefetch=0)))
        ends = np.sum(batch.targets_BL == VOCAB.end_of_infill_id)
        names = np.sum((batch.tokens_BL >= 100) & (batch.tokens_BL < 200))
        assert names > 8 and ends >= 0.6 * names


def test_documents_too_long_are_left_out_and_neighbours_dropped(tmp_path):
    records = [_record(0, 100, text_length=60), _record(1, 100, text_length=40)]
    written = shards.write_shard(tmp_path / "pairs", "train", 0, records)
    shards.finish(tmp_path / "pairs", INFO, {"train": [written]})
    config = dataclasses.replace(SMALL, neighbor_probs=(0.0, 0.0, 0.0, 1.0), cm3=PLAIN)
    dataset = pipeline.load([SetSpec(str(tmp_path / "pairs"))], config, prefetch=0)
    sequences = _sequences(next(iter(dataset)))
    names = {int(ids[(ids >= 100) & (ids < 200)][0]) for ids in sequences}
    assert names == {101}
    assert dataset.counts.too_long and dataset.counts.neighbors_dropped
    nothing = dataclasses.replace(SMALL, max_length=16)
    with pytest.raises(ValueError, match="raise it"):
        next(iter(pipeline.load([SetSpec(str(tmp_path / "pairs"))], nothing)))


def test_one_pass_holds_every_document_once(sets):
    source = shards.open(sets[0].folder, "train")
    batches = list(pipeline.one_pass(source, SMALL))
    assert all(batch.tokens_BL.shape == (8, 64) for batch in batches)
    names = [ids[ids >= 100] for batch in batches for ids in _sequences(batch)]
    names = sorted(int(name[name < 200][0]) for name in names)
    assert names == list(range(100, 150))


def test_sets_of_other_tokenizers_are_refused(sets):
    with pytest.raises(ValueError, match="another text_tokenizer"):
        other = dataclasses.replace(INFO, text_tokenizer="other")
        pipeline.load(sets, SMALL, info=other)
    with pytest.raises(ValueError, match="multiple of"):
        pipeline.load(sets, SMALL, num_hosts=3)


@pytest.mark.parametrize(
    "bad",
    [
        {"packing": "tight"},
        {"batch_size": 7},
        {"neighbor_probs": (0.5, 0.4)},
        {"max_length": 0},
    ],
)
def test_loader_config_refuses_values_out_of_range(bad):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(SMALL, **bad)


def test_sets_without_neighbors_get_none_and_the_others_theirs(sets):
    config = dataclasses.replace(
        SMALL, neighbor_probs=(0.0, 0.0, 1.0), cm3=PLAIN, packing="whole"
    )
    specs = [sets[0], dataclasses.replace(sets[1], with_neighbors=False)]
    batches = iter(pipeline.load(specs, config, prefetch=0))
    fronts = {"pairs": set(), "caption": set()}
    for _ in range(4):
        for ids in _sequences(next(batches)):
            count = int((ids == 30).sum())  # the neighbours' first text id
            first = next(i for i in ids if 100 <= i < 180)  # names the document
            name = "pairs" if first < 150 else "caption"
            fronts[name].add(count)
    assert fronts == {"pairs": {2}, "caption": {0}}
