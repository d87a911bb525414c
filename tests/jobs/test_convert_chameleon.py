"""Laws of Chameleon's folders as a job: in, used, and out again."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from cm3leon_jax import api, storage
from cm3leon_jax.convert import chameleon, chameleon_card
from cm3leon_jax.data import trained
from cm3leon_jax.jobs import convert
from cm3leon_jax.tokenizers import chameleon as tokenizers
from cm3leon_jax.train import export
from configs import convert as config_file
from tests import chameleon_models, small_models


def _convert(direction, source, target, **fields):
    config = config_file.get_config(direction)
    config.update(source=str(source), target=str(target), **fields)
    convert.run(config, f"{target}-work")


@pytest.fixture(
    scope="module", params=["7b", pytest.param("30b", marks=pytest.mark.slow)]
)
def public(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "public"
    tensors, pixels = chameleon_models.write_folder(folder, request.param)
    return folder, tensors, pixels


@pytest.fixture(scope="module")
def ours(public):
    folder, _, pixels = public
    target = folder.parent / "ours"
    _convert("from_hf", folder, target, image_tokenizer=str(pixels))
    return target


def test_there_and_back_is_the_same_folder(public, ours, tmp_path):
    folder, tensors, _ = public
    again = tmp_path / "again"
    _convert("to_hf", ours, again, shard_mb=0.2)
    held = {}
    for path in again.glob("*.safetensors"):
        held |= safetensors.numpy.load_file(path)
    assert held.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(held[name], array, err_msg=name)
    data = (folder / "tokenizer.json").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == data
    config = json.loads((again / "config.json").read_text())
    assert config["vocabulary_map"] == tokenizers.ChameleonTokenizer(data).ids
    assert config["architectures"] == ["ChameleonForConditionalGeneration"]
    twice = tmp_path / "twice"
    _convert("from_hf", again, twice)  # its decoder lies beside
    one, two = (storage.read_json(x / export.ABOUT_FILE) for x in (ours, twice))
    assert one["weights"] == two["weights"] and one["shards"] == two["shards"]


def test_a_training_job_becomes_the_folder_too(public, ours, tmp_path):
    _, tensors, _ = public
    run = small_models.train_to(tmp_path, ours)
    _convert("to_hf", run, tmp_path / "hf")
    held = safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors")
    assert held.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(held[name], array, err_msg=name)
    assert chameleon_card.LICENCE_NOTE in (tmp_path / "hf" / "README.md").read_text()


def test_image_rows_lie_in_the_order_of_the_codes(public, ours):
    folder, tensors, _ = public
    vocab = trained.load(ours).info.vocab
    head = small_models.arrays_of(trained.load(ours).model)["head_VD"]
    ids = json.loads((folder / "config.json").read_text())["vocabulary_map"]
    theirs = tensors["lm_head.weight"]
    for code, name in ((0, "IMGIMGAZ"), (7, "IMGIMGHZ"), (23, "IMGIMGCDZ")):
        np.testing.assert_array_equal(head[vocab.image_ids(code)], theirs[ids[name]])
    np.testing.assert_array_equal(
        head[vocab.begin_image_id], theirs[ids["<racm3:break>"]]
    )


def test_the_model_draws_whole_pictures_with_guidance(ours):
    model = api.load(ours)
    assert model.writer.vocab.use_image_marks
    assert model.draw("a red circle", 2, guidance=3.0).shape == (2, 8, 8, 3)


def test_the_card_names_the_licence_and_the_reserved_ids(ours, tmp_path):
    _convert("to_hf", ours, tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert "license_name: chameleon-research-license" in text
    assert chameleon_card.LICENCE_NOTE in text and chameleon.LICENCE in text
    ids = tokenizers.ChameleonTokenizer.load(ours).ids
    for name in ("<eoss>", "<reserved08708>", "<reserved08194>", "<reserved08199>"):
        assert f"| {ids[name]} | `{name}` |" in text
    about = storage.read_json(ours / export.ABOUT_FILE)
    assert about["licence"] == chameleon.LICENCE


def test_weights_alone_keep_the_order_of_their_ids(public, tmp_path):
    folder, tensors, _ = public
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((folder / name).read_bytes())
    _convert("from_hf", tmp_path / "bare", tmp_path / "back")
    model, context = export.load(tmp_path / "back")
    assert context["shards"] is None
    np.testing.assert_array_equal(model.head_VD[...], tensors["lm_head.weight"])


def _swap_codes(folder):
    path = folder / "tokenizer.json"
    text = path.read_text()
    text = text.replace("IMGIMGDZ", "swap").replace("IMGIMGEZ", "IMGIMGDZ")
    path.write_text(text.replace("swap", "IMGIMGEZ"))


def _cut_ids(folder):
    path = folder / "config.json"
    record = json.loads(path.read_text())
    record["vocab_size"] -= 1
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_swap_codes, "maps image codes to other ids.*gibberish"),
        (_cut_ids, "have another shape than config.json says"),
    ],
)
def test_a_folder_that_does_not_belong_together_is_refused(tmp_path, spoil, message):
    chameleon_models.write_folder(tmp_path / "public")
    spoil(tmp_path / "public")
    with pytest.raises(ValueError, match=message):
        _convert("from_hf", tmp_path / "public", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_decoder_of_another_tokenizer_is_refused(tmp_path):
    chameleon_models.write_folder(tmp_path / "public")
    chameleon_models.write_folder(tmp_path / "other" / "public", seed=1)
    other = tmp_path / "other" / "pixels"
    with pytest.raises(ValueError, match="its codes are not those"):
        _convert(
            "from_hf",
            tmp_path / "public",
            tmp_path / "back",
            image_tokenizer=str(other),
        )
    assert not (tmp_path / "back").exists()


_DUMP = """
import json
json.dump(codes, open("found.json", "w"))
"""


@pytest.mark.torch
def test_stock_transformers_draws_by_the_card_as_here(ours, tmp_path):
    pytest.importorskip("transformers")
    target = tmp_path / "hf"
    _convert("to_hf", ours, target)
    text = (target / "README.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    (target / "card.py").write_text(f"{code}{_DUMP}")
    done = subprocess.run(
        [sys.executable, "card.py"], cwd=target, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    model = api.load(ours)
    sampling = api.Sampling(temperature=0.0, guidance=3.0)
    made = model.fulfil([api.Ask("draw", "a red circle", sampling=sampling)])[0]
    codes = np.array(storage.read_json(target / "found.json"))
    decoded = model.writer.decode_pictures(codes[None])[0]
    np.testing.assert_array_equal(decoded, made.picture)  # the same codes
    there = np.asarray(Image.open(target / "drawn.png")).astype(int)
    assert np.abs(there - made.picture).max() <= 1
