"""Folders of programs that knew fewer fields are gone on with."""

import json

import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import resumption
from configs import pretrain

CHANGES = {
    "loader.batch_size": 16,
    "loader.seed": 5,
    "loader.max_length": 64,
    "optimizer.warmup_steps": 7,
    "loop.num_steps": 11,
    "sets.pairs": 0.5,
    "shards": "elsewhere",
    "model.mlp_dim": 8,
    "step.num_microbatches": 2,
    "guard.action": "skip",
}


@pytest.mark.parametrize("field", CHANGES)
def test_change_of_what_decides_numbers_is_shown_and_refused_unless_named(
    tmp_path, field
):
    config = pretrain.get_config("debug")
    assert resumption.start(config, str(tmp_path))
    storage.write_json(tmp_path / "checkpoints" / "5" / "state.json", {})
    config.update_from_flattened_dict({field: CHANGES[field]})
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=rf"config\.{field}: .* -> "):
        resumption.start(config, str(tmp_path))
    assert (tmp_path / "config.json").read_bytes() == before
    config.resume.allow_change = field
    assert resumption.start(config, str(tmp_path))
    noted = json.loads((tmp_path / "changes.jsonl").read_text())["changes"]
    assert [line.partition(":")[0] for line in noted] == [f"config.{field}"]


class _Batches:
    """Batches that stay where they are: only what they belong to is looked at."""

    def get_state(self):
        return {"fingerprint": "a", "streams": {"0": {"next": 1}}}

    def set_state(self, state):
        pass


@pytest.mark.parametrize("part", ["text_tokenizer", "image_tokenizer", "vocab"])
def test_another_tokenizer_is_shown_and_refused_unless_named(tmp_path, part):
    def made(digest, allowed=()):
        identity = {"shards": {part: digest}}
        return resumption.Batches(
            _Batches(), identity, allowed=allowed, workdir=str(tmp_path)
        )

    state = made("one").get_state()
    made("one").set_state(state)
    with pytest.raises(ValueError, match=rf"shards\.{part}: 'one' -> 'two'"):
        made("two").set_state(state)
    made("two", (f"shards.{part}",)).set_state(state)
    assert part in (tmp_path / "changes.jsonl").read_text()


def _older(tmp_path, config):
    """A folder of a run that was begun before mixtures and rules of masking."""
    former = json.loads(json.dumps(config.to_dict()))
    del former["mixture"], former["loader"]["cm3"]["rule"]
    storage.write_json(tmp_path / "config.json", former)
    storage.write_json(tmp_path / "checkpoints" / "5" / "state.json", {})


def test_fields_that_are_off_are_as_if_they_had_been_there(tmp_path):
    config = pretrain.get_config("debug")
    _older(tmp_path, config)
    assert resumption.start(config, str(tmp_path))
    written = storage.read_json(tmp_path / "config.json")
    assert written["mixture"]["shares"] == "" and written["loader"]["cm3"]["rule"] == ""


@pytest.mark.parametrize(
    ("field", "named"),
    [("mixture.shares", "config.mixture: "), ("loader.cm3.rule", "cm3.rule: ")],
)
def test_fields_that_are_on_are_a_change(tmp_path, field, named):
    config = pretrain.get_config("debug")
    _older(tmp_path, config)
    config.update_from_flattened_dict({field: "text"})
    with pytest.raises(ValueError, match=named):
        resumption.start(config, str(tmp_path))
