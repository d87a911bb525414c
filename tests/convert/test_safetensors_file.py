"""Laws of safetensors files: the format's own library agrees; a file that lies costs
nothing."""

import hashlib
import json
import resource
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cm3leon_jax.convert import safetensors_file
from cm3leon_jax.convert.safetensors_file import Spec

ARRAYS = {
    "z": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "a": np.arange(5, dtype=np.int64),
    "half": np.asarray(jnp.arange(6, dtype=jnp.bfloat16)).reshape(3, 2),
    "scalar": np.array(3.5, np.float32),
    "none": np.zeros((0, 4), np.float32),
}


def _specs(arrays):
    return {name: Spec(x.dtype, x.shape) for name, x in arrays.items()}


def _rewrite(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def _edited(path, change):
    def edit(header):
        record = json.loads(header)
        change(record)
        return json.dumps(record).encode()

    _rewrite(path, edit)


def test_the_formats_own_library_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    digests = safetensors_file.write(path, _specs(ARRAYS), ARRAYS.items())
    read = safetensors.numpy.load_file(path)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
        assert digests[name] == hashlib.sha256(array.tobytes()).hexdigest()


def test_what_the_formats_own_library_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    file = safetensors_file.File(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(file.read(name), array)
    np.testing.assert_array_equal(file.read("z", 1), ARRAYS["z"][1])


def test_a_stack_may_come_layer_by_layer(tmp_path):
    path = tmp_path / "x.safetensors"
    parts = [("z", ARRAYS["z"][0]), ("z", ARRAYS["z"][1]), ("a", ARRAYS["a"])]
    specs = {name: _specs(ARRAYS)[name] for name in ("z", "a")}
    safetensors_file.write(path, specs, parts)
    np.testing.assert_array_equal(safetensors_file.File(path).read("z"), ARRAYS["z"])


@pytest.mark.parametrize("names", [("a", "z"), ("z",), ("z", "a", "a")])
def test_parts_that_are_not_what_was_said_leave_nothing_behind(tmp_path, names):
    specs = {name: _specs(ARRAYS)[name] for name in ("z", "a")}
    with pytest.raises(ValueError, match="to be written here|not whole|is not Spec"):
        parts = ((name, ARRAYS[name]) for name in names)
        safetensors_file.write(tmp_path / "x.safetensors", specs, parts)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_no_half_file_and_the_next_clears_up(tmp_path):
    path = tmp_path / "x.safetensors"
    killed = (
        "import os, numpy as np\n"
        "from cm3leon_jax.convert import safetensors_file as s\n"
        "def parts():\n"
        "    yield 'a', np.zeros(5, np.float32)\n"
        "    os._exit(9)\n"
        "spec = s.Spec(np.dtype('float32'), (5,))\n"
        f"s.write({str(path)!r}, {{'a': spec, 'b': spec}}, parts())\n"
    )
    done = subprocess.run([sys.executable, "-c", killed], check=False)
    assert done.returncode == 9
    assert not path.exists() and list(tmp_path.iterdir())
    safetensors_file.write(path, _specs(ARRAYS), ARRAYS.items())
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["b"].update(data_offsets=[24, 44]), "said to take 20"),
        (lambda r: r["b"].update(data_offsets=[20, 36]), "overlaps 'a'"),
        (lambda r: r["b"].update(data_offsets=[28, 44]), "leaves a gap after 'a'"),
        (lambda r: r["b"].update(dtype="F16"), "said to take 16"),
        (lambda r: r["b"].update(dtype="F7"), "described as"),
        (lambda r: r["b"].update(shape=[-2, -2]), "described as"),
        (lambda r: r["b"].update(shape=[2**40, 2**40]), "said to take 16"),
        (lambda r: r["b"].update(shape="four"), "described as"),
        (lambda r: r.pop("b"), "end at byte"),
        (lambda r: r.update(c=7), "described as"),
    ],
)
def test_a_header_that_lies_is_refused(weights, change, message):
    _edited(weights, change)
    with pytest.raises(ValueError, match=message):
        safetensors_file.File(weights)


def test_a_name_that_stands_twice_is_refused(weights):
    _rewrite(weights, lambda header: header.replace(b'"b"', b'"a"'))
    with pytest.raises(ValueError, match="names something twice"):
        safetensors_file.File(weights)


@pytest.mark.parametrize("length", [2**63, 2**40, 10_000])
def test_a_lying_length_allocates_no_more_than_the_file(weights, length):
    data = weights.read_bytes()
    weights.write_bytes(length.to_bytes(8, "little") + data[8:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"claims {length} bytes"):
        safetensors_file.File(weights)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


@pytest.mark.parametrize("kept", [0, 4, 9, 100, -1])
def test_a_file_that_was_cut_off_is_refused(weights, kept):
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        safetensors_file.File(weights)
