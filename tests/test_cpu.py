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
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)

    def threads(num_devices, before=None):
        monkeypatch.setenv("NPROC", before or "")
        if before is None:
            monkeypatch.delenv("NPROC")
        cpu.use_devices(num_devices)
        return cpu.os.environ.get("NPROC")

    assert threads(2) == "3"
    assert threads(1) is None  # a core is left
    assert threads(2, before="5") == "5"  # a person's own choice stays


def test_nothing_is_kept_where_large_pages_are_asked_for(monkeypatch):
    settings = []
    monkeypatch.setattr(cpu, "_set_malloc", settings.append)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
    cpu.keep_freed_memory()
    assert settings
    settings.clear()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    cpu.keep_freed_memory()
    assert not settings
