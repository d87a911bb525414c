import functools
import importlib.util
import pathlib

import pytest

from cm3leon_jax.jobs import beam, shards

# The folders, fake tools and jobs of the tests of the local job.
_PATH = pathlib.Path(__file__).parent / "test_shards.py"
_SPEC = importlib.util.spec_from_file_location("shards_fakes", _PATH)
fakes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fakes)


def _job(root, pictures):
    # Loaded anew: a worker has nothing but the path.
    spec = importlib.util.spec_from_file_location("shards_fakes", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._job(root, pictures)


def test_without_beam_the_remedy_is_said():
    if importlib.util.find_spec("apache_beam"):
        pytest.skip("Apache Beam is installed")
    with pytest.raises(ValueError, match=r"cm3leon-jax\[beam\]"):
        beam.beam()


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_direct_runner_writes_what_the_local_job_writes(tmp_path, kind):
    pytest.importorskip("apache_beam")
    if kind == "tar":
        pictures = fakes._tars(tmp_path / "pictures")
    else:
        pictures = fakes.fakes.make_folder(tmp_path / "pictures", 20, bad=(3, 7))
    local = shards.write(_job(tmp_path / "local", pictures))
    make = functools.partial(_job, tmp_path / "beam", pictures)
    assert beam.write(make, "DirectRunner") == local
    assert fakes._files(tmp_path / "beam") == fakes._files(tmp_path / "local")
