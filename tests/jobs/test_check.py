import importlib.util
import json
import pathlib

import pytest

from cm3leon_jax.jobs import check
from configs import check as check_config

# The folders of the tests of the job that comes after this one.
_PATH = pathlib.Path(__file__).parent / "test_shards.py"
_SPEC = importlib.util.spec_from_file_location("shards_fakes", _PATH)
fakes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fakes)


def _config(folder, **minimum):
    config = check_config.get_config("debug")
    config.pictures.folder = str(folder)
    config.pictures.image_size = 16
    config.minimum.update(minimum)
    return config


@pytest.mark.parametrize("kind", ["tar", "folder", "splits"])
def test_accepted_and_refused_are_the_total_in_every_format(tmp_path, kind, capsys):
    pictures = tmp_path / "pictures"
    if kind == "tar":
        fakes._tars(pictures)  # 29 pictures, three of them damaged
    elif kind == "folder":
        fakes.fakes.make_folder(pictures, count=29, bad=(1, 2, 3), edit=False)
    else:
        for split, count, bad in (("train", 20, (1, 2)), ("test", 9, (3,))):
            fakes.fakes.make_folder(pictures / split, count, bad, edit=False)
    check.run(_config(pictures), str(tmp_path / "check"))
    counted = json.loads((tmp_path / "check" / "refusals.json").read_text())
    assert (counted["accepted"], counted["refused"], counted["total"]) == (26, 3, 29)
    done = json.loads((tmp_path / "check" / "done.json").read_text())
    assert sum(done["rows"].values()) == 26
    said = capsys.readouterr().out
    assert f"{pictures}: " in said and "26 accepted + 3 refused (3 unreadable)" in said


def test_too_few_usable_pictures_are_an_error_with_the_remedy(tmp_path):
    fakes._tars(tmp_path / "pictures")
    config = _config(tmp_path / "pictures", train=1_000)
    with pytest.raises(ValueError, match="--config.minimum.train"):
        check.run(config, str(tmp_path / "check"))
