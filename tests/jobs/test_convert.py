"""Laws of conversion as a job: round trip, restart, hosts, refusals, the card's code."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from cm3leon_jax import api, storage
from cm3leon_jax.convert import files
from cm3leon_jax.convert import folder as weight_folders
from cm3leon_jax.data import trained
from cm3leon_jax.jobs import convert, folder
from cm3leon_jax.train import export, state
from configs import convert as config_file
from tests import small_models

ROOT = pathlib.Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    small_models.export_to(folder)
    return folder


def _config(direction, source, target, **fields):
    config = config_file.get_config(direction)
    config.update(source=str(source), target=str(target), **fields)
    return config


def _run(tmp_path, config, name="work"):
    convert.run(config, str(tmp_path / name))


def _arrays(path):
    return safetensors.numpy.load_file(path / export.WEIGHTS_FILE)


def test_there_and_back_keeps_every_bit_and_loads(tmp_path, exported):
    there, back = tmp_path / "hf", tmp_path / "back"
    _run(tmp_path, _config("to_hf", exported, there, shard_mb=0.05), "1")
    _run(tmp_path, _config("from_hf", there, back), "2")
    ours, again = _arrays(exported), _arrays(back)
    assert ours.keys() == again.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    one, two = trained.load(exported), trained.load(back)
    assert (one.info, one.coordinates) == (two.info, two.coordinates)
    assert storage.read_json(back / export.ABOUT_FILE)["licence"] == "CC0-1.0"
    for name in ("text.model", "vqgan/weights.safetensors"):
        assert (exported / name).read_bytes() == (back / name).read_bytes()


def test_the_log_has_dtype_and_digest_of_every_array(tmp_path, exported):
    target = tmp_path / "hf"
    config = _config("to_hf", exported, target, shard_mb=0.05, dtype="bfloat16")
    _run(tmp_path, config)
    lines = storage.read_json(tmp_path / "work" / convert.LOG)
    held = {}
    for path in [*target.glob("*.safetensors"), *target.glob("vqgan/*.safetensors")]:
        for name, array in safetensors.numpy.load_file(path).items():
            held[str(path.relative_to(target)), name] = array
    assert len(lines) == len(held)
    for line in lines:
        array = held[line["file"], line["name"]]
        assert line["sha256"] == storage.digest_bytes(array.tobytes())
        assert (line["dtype"], line["shape"]) == (str(array.dtype), list(array.shape))
    assert {line["dtype"] for line in lines} == {"bfloat16", "float32"}
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "auto_map" not in config


def test_an_interrupted_conversion_goes_on_where_it_was(
    tmp_path, exported, monkeypatch
):
    target = tmp_path / "hf"
    config = _config("to_hf", exported, target, shard_mb=0.05)
    write, written = weight_folders.write_shard, []

    def stop_at_third(path, shard, make):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        return write(path, shard, make)

    monkeypatch.setattr(weight_folders, "write_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, config)
    assert not (target / "config.json").exists()  # it opens nowhere yet
    assert {path.name for path in target.iterdir()} == set(written)
    first = (target / written[0]).stat().st_mtime_ns
    monkeypatch.setattr(weight_folders, "write_shard", write)
    _run(tmp_path, config)
    assert (target / written[0]).stat().st_mtime_ns == first
    again = tmp_path / "again"
    _run(tmp_path, _config("to_hf", exported, again, shard_mb=0.05), "other")
    for path in again.glob("*.safetensors"):
        assert path.read_bytes() == (target / path.name).read_bytes()


def test_hosts_share_the_files_and_the_first_finishes(tmp_path, exported, monkeypatch):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    _run(tmp_path, _config("to_hf", exported, whole, shard_mb=0.05), "one")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for host in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        _run(tmp_path, _config("to_hf", exported, shared, shard_mb=0.05), "two")
        assert (shared / "config.json").exists() == (host == 0)
    names = sorted(path.name for path in whole.rglob("*.safetensors"))
    assert len(names) > 4
    assert names == sorted(path.name for path in shared.rglob("*.safetensors"))
    index = files.INDEX
    assert (whole / index).read_text() == (shared / index).read_text()


def test_a_training_job_becomes_what_its_export_becomes(tmp_path, exported):
    run = small_models.train_to(tmp_path, exported)
    one, two = tmp_path / "of_export", tmp_path / "of_run"
    _run(tmp_path, _config("to_hf", exported, one, shard_mb=0.05), "1")
    _run(tmp_path, _config("to_hf", run, two, shard_mb=0.05, licence="CC0-1.0"), "2")
    for path in one.rglob("*"):
        if path.is_file() and path.name != "README.md":  # which names the source
            again = two / path.relative_to(one)
            assert again.read_bytes() == path.read_bytes(), path
    manifest = run / state.CHECKPOINTS / "00000007" / "manifest" / "data.json"
    digest = storage.read_json(manifest)["digest"]
    assert f"| weights | `{digest}` |" in (two / "README.md").read_text()


def test_a_damaged_checkpoint_leaves_nothing(tmp_path, exported):
    run = small_models.train_to(tmp_path, exported)
    for path in (run / state.CHECKPOINTS).rglob("d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(ValueError, match="take an earlier checkpoint"):
        _run(tmp_path, _config("to_hf", run, tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()


def test_weights_alone_come_without_a_vocabulary(tmp_path, exported):
    there, back = tmp_path / "hf", tmp_path / "back"
    _run(tmp_path, _config("to_hf", exported, there), "1")
    record = json.loads((there / "config.json").read_text())
    del record["cm3leon"]
    (there / "config.json").write_text(json.dumps(record))
    _run(tmp_path, _config("from_hf", there, back), "2")
    model, context = export.load(back)
    assert context["shards"] is None and model.config.num_layers == 3
    with pytest.raises(ValueError, match="weights alone, without vocabulary"):
        trained.load(back)


def _spoil_text(there):
    data = bytearray((there / "text.model").read_bytes())
    data[-40] ^= 1
    (there / "text.model").write_bytes(bytes(data))


def _swap_names(there):
    path = there / "tokenizer.json"
    text = path.read_text()
    text = text.replace("<image:3>", "<swap>").replace("<image:4>", "<image:3>")
    path.write_text(text.replace("<swap>", "<image:4>"))


def _shrink(there):
    path = there / "config.json"
    record = json.loads(path.read_text()) | {"max_position_embeddings": 40}
    path.write_text(json.dumps(record))


def _cut_shard(there):
    path = there / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def _other_pixels(there):
    path = there / "vqgan" / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["quant_conv.bias"] = arrays["quant_conv.bias"] + 1
    safetensors.numpy.save_file(arrays, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_text, r"text\.model"),
        (_swap_names, r"tokenizer\.json has another vocabulary"),
        (_shrink, r"embed_positions.weight \[82, 64\], expected \[42, 64\]"),
        (_cut_shard, "no whole safetensors file"),
        (_other_pixels, "another image_tokenizer"),
    ],
)
def test_a_folder_that_does_not_belong_together_is_refused(
    tmp_path, exported, spoil, message
):
    there, back = tmp_path / "hf", tmp_path / "back"
    _run(tmp_path, _config("to_hf", exported, there), "1")
    spoil(there)
    with pytest.raises(ValueError, match=message):
        _run(tmp_path, _config("from_hf", there, back), "2")
    assert not back.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"direction": "to_tf"}, "direction='to_tf' must be one of to_hf, from_hf"),
        ({"source": ""}, "no --config.source"),
        ({"target": ""}, "no --config.target"),
        ({"dtype": "int8"}, "dtype='int8' must be one of"),
    ],
)
def test_a_config_that_asks_for_nothing_is_refused(tmp_path, exported, fields, message):
    config = _config("to_hf", exported, tmp_path / "hf")
    config.update(fields)
    with pytest.raises(ValueError, match=message):
        _run(tmp_path, config)
    assert not (tmp_path / "hf").exists()


def test_a_target_that_holds_something_is_left_alone(tmp_path, exported):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine").write_text("x")
    with pytest.raises(ValueError, match="holds files already"):
        _run(tmp_path, _config("to_hf", exported, tmp_path / "hf"))
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["mine"]


def test_a_model_that_opt_cannot_hold_leaves_nothing(tmp_path, exported):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    about = storage.read_json(copy / export.ABOUT_FILE)
    about["model"]["activation"] = "gelu"
    storage.write_json(copy / export.ABOUT_FILE, about)
    with pytest.raises(ValueError, match="OPT cannot hold activation='gelu'"):
        _run(tmp_path, _config("to_hf", copy, tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()


def _card_code(target):
    text = (target / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_card_says_whence_and_shows_how_in_few_lines(tmp_path, exported):
    target = tmp_path / "hf"
    _run(tmp_path, _config("to_hf", exported, target))
    text = (target / "README.md").read_text()
    assert text.startswith("---\nlicense: cc0-1.0\n")
    about = storage.read_json(exported / export.ABOUT_FILE)
    for value in (
        about["weights"],
        about["shards"]["text_tokenizer"],
        about["shards"]["image_tokenizer"],
    ):
        assert value in text
    setup, *examples = _card_code(target)
    assert len(examples) == 3 and setup.count("\n") <= 10
    for code in [setup, *examples]:
        compile(code, "card", "exec")
        assert code.count("\n") <= 10


_DUMP = """
import json
found = {"drawn": drawn[0].tolist(), "caption": caption, "edited": edited[0].tolist()}
json.dump(found, open("found.json", "w"))
"""


def test_the_card_says_what_was_measured_by_group_and_beside_the_data(
    tmp_path, exported
):
    numbers = {"clip_score": 0.25, "clip_score/summer": 0.2, "num_cases/summer": 9}
    numbers |= {"share_drawn/a man": 0.75, "share_data/a man": 0.5}
    settings = {"name": "own", "split": "test", "seed": 3}
    measured = {"numbers": numbers, "settings": settings}
    folder.finish(str(tmp_path / "measured"), measured)
    config = _config("to_hf", exported, tmp_path / "hf")
    config.evaluations = (str(tmp_path / "measured"),)
    _run(tmp_path, config)
    card = (tmp_path / "hf" / "README.md").read_text()
    limits = card.split("## Known limits")[1].split("## Training data")[0]
    for line in (
        "carries their bias",
        "### own",
        "split test, seed 3.",
        "| clip_score | 0.25 |",
        "| summer | clip_score | 0.2 |",
        "| a man | 0.75 | 0.5 |",
    ):
        assert line in limits, line
    config.evaluations, config.target = ("absent",), str(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="absent holds no finished"):
        _run(tmp_path, config, "again")


@pytest.mark.torch
def test_the_cards_code_draws_describes_and_edits_as_here(tmp_path):
    pytest.importorskip("transformers")
    target = tmp_path / "hf"
    _run(tmp_path, _config("to_hf", DEMO, target))
    text = "a red circle at the top left and a blue triangle at the bottom right"
    told = "make the green square blue"
    code = "".join(_card_code(target))
    code = code.replace("a red circle at the top left", text)
    code = code.replace("make the red circle blue", told)
    (target / "card.py").write_text(code + _DUMP)
    shutil.copyfile(DEMO / "pictures" / "2.png", target / "picture.png")
    done = subprocess.run(
        [sys.executable, "card.py"], cwd=target, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found = storage.read_json(target / "found.json")
    model = api.load(DEMO, with_bank=False)
    picture = np.asarray(Image.open(target / "picture.png").convert("RGB"))
    greedy = api.Sampling(temperature=0.0)
    guided = api.Sampling(temperature=0.0, guidance=3.0)
    asks = [
        api.Ask("draw", text, sampling=guided),
        api.Ask("caption", picture=picture, sampling=greedy),
        api.Ask("edit", told, picture, sampling=guided),
    ]
    drawn, described, edited = model.fulfil(asks)
    assert found["caption"] == described.text
    for name, made in (("drawn", drawn), ("edited", edited)):
        codes = np.array(found[name]) - model.writer.vocab.image_start
        decoded = model.writer.decode_pictures(codes[None])[0]
        np.testing.assert_array_equal(decoded, made.picture)  # the same codes
        there = np.asarray(Image.open(target / f"{name}.png")).astype(int)
        assert np.abs(there - made.picture).max() <= 1
