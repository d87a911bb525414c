"""The plan of a run on a pod that is not there."""

import importlib.util

import jax
import pytest

from cm3leon_jax import storage
from cm3leon_jax.jobs import plan, recipe
from configs import plan as config_file

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="needs the extra tpu")


def _config(arg):
    config = config_file.get_config(arg)
    config.run.loader.batch_size = 8
    config.run.mesh.update(data=1, fsdp=-1)
    return config


@pytest.mark.parametrize("name", ["v5e:16x17", "v5p-128", "h100"])
def test_unknown_topologies_are_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ValueError, match="nearest|did you mean"):
        plan.run(_config(f"350m,debug,topology={name}"), str(tmp_path / "plan"))
    assert not (tmp_path / "plan").exists()


def test_unknown_policies_are_refused_with_the_nearest(tmp_path):
    config = _config("350m,debug")
    config.run.model.remat = "dot"
    with pytest.raises(ValueError, match="did you mean 'dots'"):
        recipe.model(config.run, plan._VOCAB, is_cpu=False)


def test_the_attention_of_the_run_is_what_is_planned():
    config = _config("350m,debug")
    model = recipe.model(config.run, plan._VOCAB, is_cpu=False)
    made = lambda: plan.make_program(config.run, model, jax.devices(), "tpu")
    made()
    config.run.attention.kind = "cudnn"
    with pytest.raises(ValueError, match="attention.kind='cudnn' runs on"):
        made()


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is there")
def test_a_missing_libtpu_is_named_with_its_extra(tmp_path):
    with pytest.raises(ValueError, match=r"cm3leon-jax\[tpu\]"):
        plan.run(_config("350m,debug,topology=v5e:2x2"), str(tmp_path))


@pytest.mark.slow
@pytest.mark.tpu
@needs_libtpu
@pytest.mark.parametrize("pod", ["v5e:2x2", "v4:2x2x1"])
def test_run_compiles_for_a_pod_and_writes_its_accounts(pod, tmp_path):
    plan.run(_config(f"350m,debug,topology={pod}"), str(tmp_path))
    found = storage.read_json(tmp_path / "plan.json")
    assert found["fits"] and found["num_devices"] == 4
    memory = found["memory"]
    assert 0 < memory["arguments"] < memory["peak"] < memory["available"]
    assert found["sent_bytes"]["total"] > 0
    executed, model = (
        found["flops"][f"{name}_per_step"] for name in ("executed", "model")
    )
    assert 0.9 < executed / model < 1.5
    assert found["roofline"]["seconds"] > 0
    assert (tmp_path / "step.hlo.gz").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.tpu
@needs_libtpu
def test_rows_that_do_not_divide_are_refused_before_compiling(tmp_path):
    config = _config("350m,debug,topology=v5e:2x2")
    config.run.loader.batch_size = 6
    with pytest.raises(ValueError, match="the nearest is"):
        plan.run(config, str(tmp_path))
