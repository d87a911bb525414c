import json

import pytest
from PIL import Image

from cm3leon_jax.data import listing, splits
from cm3leon_jax.data.hosts import Hosts
from cm3leon_jax.data.listing import Table
from cm3leon_jax.data.refusals import Refusals
from cm3leon_jax.data.sources.row import SourceConfig
from cm3leon_jax.data.splits import SplitConfig

SOURCE = SourceConfig()
CONFIG = SplitConfig(num_validation=4, num_test=7)


def _documents(root, counts=(11, 1, 0, 25), names=None):
    root.mkdir()
    for number, count in enumerate(counts):
        name = names[number] if names else f"{number}.jsonl"
        lines = [json.dumps({"parts": [f"{number} {k}"]}) for k in range(count)]
        (root / name).write_text("\n".join([*lines, "bad"]))
    return root


def _table(root, rows_per_shard=4):
    found = splits.find(root, SOURCE)
    listings = [listing.count(one, SOURCE, CONFIG) for one in found]
    return Table(found, listings, CONFIG, rows_per_shard), listings


def test_shards_hold_every_row_of_their_split_once(tmp_path):
    root = _documents(tmp_path / "docs")
    table, listings = _table(root)
    assert sum(one.refusals["refused"] for one in listings) == 4
    by_split = {name: [] for name in splits.SPLITS}
    for shard, rows in table.rows(table.shards, SOURCE):
        assert len(rows) == shard.stop - shard.start <= 4
        by_split[shard.split].append((shard.index, [row.id for row in rows]))
    for split in splits.names(root):
        numbered = sorted(by_split[split])
        assert [index for index, _ in numbered] == list(range(len(numbered)))
        ids = [one for _, some in numbered for one in some]
        wanted = splits.read(root, split, CONFIG, Refusals())
        assert ids == [row.id for row in wanted]
    assert len(ids) == 7


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 50])
def test_hosts_share_all_shards_evenly_and_read_them_alike(tmp_path, num_hosts):
    table, _ = _table(_documents(tmp_path / "docs"))
    owned = [table.owned(Hosts(host, num_hosts)) for host in range(num_hosts)]
    assert [shard for some in owned for shard in some] == table.shards
    sizes = [len(some) for some in owned]
    assert max(sizes) - min(sizes) <= 1
    whole = {
        s.name: [r.id for r in rows] for s, rows in table.rows(table.shards, SOURCE)
    }
    for some in owned:
        for shard, rows in table.rows(some, SOURCE):
            assert [row.id for row in rows] == whole[shard.name]


def test_inputs_named_after_splits_keep_them(tmp_path):
    names = ["bank.jsonl", "test.jsonl", "train.jsonl", "val.jsonl"]
    table, _ = _table(_documents(tmp_path / "docs", (3, 2, 9, 1), names))
    sizes = dict.fromkeys(splits.SPLITS, 0)
    for shard in table.shards:
        sizes[shard.split] += shard.stop - shard.start
    assert sizes == {"train": 9, "validation": 1, "test": 2, "bank": 3}
    assert splits.names(tmp_path / "docs") == ("train", "validation", "test", "bank")


def test_rows_of_one_group_are_in_one_split(tmp_path):
    images, captions = [], []
    for number in range(40):
        name = f"{number}.png"
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        images.append({"id": number, "file_name": name})
        captions += [
            {"id": 5 * number + k, "image_id": number, "caption": "x"} for k in range(5)
        ]
    content = {"images": images, "annotations": captions}
    (tmp_path / "captions_all.json").write_text(json.dumps(content))
    held = {}
    for split in splits.names(tmp_path):
        rows = list(splits.read(tmp_path, split, CONFIG, Refusals()))
        assert len(rows) % 5 == 0
        held[split] = {row.group for row in rows}
    assert sum(map(len, held.values())) == 40
    table, _ = _table(tmp_path)
    for shard, rows in table.rows(table.shards, SOURCE):
        assert {row.group for row in rows} <= held[shard.split]


def test_too_few_rows_are_refused_before_any_is_read_again(tmp_path):
    with pytest.raises(ValueError, match="11 usable rows"):
        _table(_documents(tmp_path / "docs", (11,)))
