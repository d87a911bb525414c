"""How steps are compiled for a CPU."""

import types

import jax
import numpy as np

from cm3leon_jax import cpu, sharding


def test_compiler_of_this_cpu_takes_the_options():
    options = cpu.compiler_options(sharding.make_mesh(sharding.MeshConfig()))
    assert options
    doubled = jax.jit(lambda x: 2 * x, compiler_options=options)
    np.testing.assert_array_equal(doubled(np.arange(3)), [0, 2, 4])


def test_other_devices_get_no_options_of_the_cpu():
    mesh = types.SimpleNamespace(
        devices=np.array([types.SimpleNamespace(platform="tpu")])
    )
    assert cpu.compiler_options(mesh) == {}


def test_a_device_a_core_gets_one_thread_more(monkeypatch):
    set_ = {}
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(jax.config, "update", set_.__setitem__)
    monkeypatch.setattr(cpu.os, "cpu_count", lambda: 2)
    monkeypatch.setenv("NPROC", "")
    monkeypatch.delenv("NPROC")
    cpu.use_devices(2)
    assert set_ == {"jax_num_cpu_devices": 2}
    assert cpu.os.environ["NPROC"] == "3"
    monkeypatch.setattr(cpu.os, "cpu_count", lambda: 16)
    monkeypatch.delenv("NPROC")
    cpu.use_devices(2)
    assert cpu.os.environ["NPROC"] == "16"
    monkeypatch.setenv("NPROC", "5")  # a person's own choice stays
    cpu.use_devices(2)
    assert cpu.os.environ["NPROC"] == "5"
