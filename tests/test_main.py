import os
import pathlib
import resource
import subprocess
import sys

import pytest

from cm3leon_jax import main

ROOT = pathlib.Path(main.__file__).parent.parent
CHECK = "configs/check.py:debug"
FOLDER = "--config.pictures.folder"


def _command(*arguments):
    command = [sys.executable, "-m", "cm3leon_jax.main", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", CHECK], "both --config and --workdir are needed"),
        (["--config", "configs/chek.py", "--workdir", "W"], "no config file"),
        (["--config", "configs/check.py:qick", "--workdir", "W"], "'qick'; known:"),
        (["--config", CHECK, "--workdir", "W", "extra"], "unexpected arguments"),
        (
            ["--config", CHECK, "--workdir", "W", "--config.pictures.foldr=x"],
            "no field 'foldr'. Did you mean \"folder\"",
        ),
        (
            ["--config", CHECK, "--workdir", "W", "--config.splits.num_test=many"],
            "num_test=many",
        ),
        (["--config", CHECK, "--workdir", "W", f"{FOLDER}=absent"], "no folder absent"),
        (["--config", CHECK, "--workdir", "W", f"{FOLDER}=$HOME"], "no folder $HOME"),
        (["--config", CHECK, "--workdir", "gs://b/run"], "mount the bucket"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    workdir = tmp_path / "run"
    arguments = [str(workdir) if word == "W" else word for word in arguments]
    done = _command(*arguments)
    assert done.returncode == main.USAGE_EXIT_CODE
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    made = {path.name for path in workdir.rglob("*")}
    assert made <= {"config.json", "error.log"}


def test_mistake_is_found_before_any_model_is_imported(tmp_path):
    flags = ["--config", "configs/pretrain.py:350m,debug", "--workdir", str(tmp_path)]
    command = [sys.executable, "-X", "importtime", "-m", "cm3leon_jax.main"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, *flags, "--config.modle.num_layers=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *imported, said = done.stderr.splitlines()
    assert done.returncode == main.USAGE_EXIT_CODE and 'Did you mean "model"' in said
    names = {line.rpartition("|")[2].strip() for line in imported}
    assert "cm3leon_jax.storage" in names
    assert not {name.partition(".")[0] for name in names} & {"jax", "flax", "orbax"}
    seconds = [x.ru_utime + x.ru_stime for x in (before, after)]
    assert seconds[1] - seconds[0] < 2  # of the processor


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a"), main.USAGE_EXIT_CODE),
        (FileNotFoundError("a"), main.USAGE_EXIT_CODE),
        (FloatingPointError("a"), main.NUMBERS_EXIT_CODE),
        (OSError(28, "No space left on device"), main.STORAGE_EXIT_CODE),
        (TimeoutError("a"), main.ABSENT_EXIT_CODE),
        (BlockingIOError("a"), main.ABSENT_EXIT_CODE),
    ],
)
def test_exit_code_says_whether_to_start_again(tmp_path, error, code, capsys):
    assert main._report(error, str(tmp_path)) == code
    assert capsys.readouterr().err.startswith("error: ")


_FAILS = """
import sys, threading, time, types
from cm3leon_jax import main
job = types.ModuleType("cm3leon_jax.jobs.fails")
def run(config, workdir):
    threading.Thread(target=time.sleep, args=(100,)).start()
    raise OSError(28, "No space left on device")
job.run = run
sys.modules[job.__name__] = job
main.run()
"""


def test_job_that_could_not_write_ends_whatever_threads_it_left(tmp_path):
    config = tmp_path / "fails.py"
    config.write_text(
        "import ml_collections\n"
        "def get_config():\n    return ml_collections.ConfigDict({'job': 'fails'})\n"
    )
    command = [sys.executable, "-c", _FAILS, "--config", config, "--workdir", tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == main.STORAGE_EXIT_CODE
    assert "error: [Errno 28] No space left on device" in done.stderr
