import pytest

from cm3leon_jax import api, sharding
from cm3leon_jax.jobs import models
from configs import benchmark, evaluate


@pytest.mark.parametrize("module", [evaluate, benchmark])
def test_the_devices_of_a_host_share_the_work_as_the_config_says(module, monkeypatch):
    asked = {}
    monkeypatch.setattr(api, "load", lambda path, **how: asked.update(how, path=path))
    config = module.get_config()
    config.model, config.mesh.data, config.mesh.tensor = "runs/7b", 2, 4
    models.load(config)
    assert asked["path"] == "runs/7b"
    assert asked["mesh"] == sharding.MeshConfig(data=2, fsdp=1, tensor=4)
    assert asked["shapes"].rows == tuple(config.shapes.rows)
