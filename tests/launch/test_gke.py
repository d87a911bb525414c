"""Manifests for a cluster: as its schema wants them, and as the job wants them."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from tests.launch import test_tpu

cloud, scripts = test_tpu.cloud, test_tpu.scripts
ROOT = pathlib.Path(__file__).parent.parent.parent
# The part of kubernetes-sigs/jobset's CRD (v1alpha2, of v0.9.1) that manifests use.
SCHEMA = json.loads((pathlib.Path(__file__).parent / "jobset.schema.json").read_text())
JOB = ["--config", "configs/pretrain.py:7b", "--workdir", "gs://bucket/a run"]
_KINDS = {"string": str, "boolean": bool, "array": list, "object": dict}


def make(*options):
    command = [sys.executable, ROOT / "launch/gke/jobset.py", "--name=run"]
    command += ["--image=image", *options, "--", *JOB]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def problems(value, schema, path=""):
    """What of a value is not as an OpenAPI schema of Kubernetes wants it."""
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, int | str) else [f"{path}: neither"]
    kind = schema["type"]
    if kind == "integer":
        bounds = schema.get("minimum", value), schema.get("maximum", value)
        is_right = type(value) is int and bounds[0] <= value <= bounds[1]
    else:
        is_right = isinstance(value, _KINDS[kind])
    found = [] if is_right else [f"{path}: no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is none of {schema['enum']}")
    if kind == "string" and not re.search(schema.get("pattern", ""), value):
        found.append(f"{path}: {value!r} is not {schema['pattern']}")
    if kind == "array":
        for item in value:
            found += problems(item, schema["items"], f"{path}[]")
    if kind == "object":
        known = schema.get("properties", {})
        found += [
            f"{path}: no {name}"
            for name in set(schema.get("required", ())) - set(value)
        ]
        for name, item in value.items():
            inner = known.get(name, schema.get("additionalProperties"))
            if inner is None and (known or not path):
                found.append(f"{path}.{name} is unknown")
            elif isinstance(inner, dict):
                found += problems(item, inner, f"{path}.{name}")
    return found


@pytest.mark.parametrize("options", [(), ("--spot", "--slices=4", "--bucket=b")])
@pytest.mark.parametrize("topology", ["v4:2x2x4", "v5e:16x16", "v5p:4x4x4", "v6e:2x4"])
def test_manifest_is_as_the_schema_wants_it(topology, options):
    assert not problems(make(f"--topology={topology}", *options), SCHEMA)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["spec"].update(replicatedJob=[]),
        lambda m: m["spec"]["replicatedJobs"][0].pop("name"),
        lambda m: m["spec"]["failurePolicy"].update(maxRestarts="many"),
        lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Fail"),
    ],
)
def test_the_reader_of_the_schema_sees(damage):
    made = make("--topology=v5e:4x4")
    damage(made)
    assert problems(made, SCHEMA)


def test_hosts_chips_and_arguments_are_the_topologys_and_the_jobs():
    made = make("--topology=v5e:16x16", "--slices=2", "--spot")
    (slices,) = made["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, 64, 64)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    (container,) = pod["containers"]
    assert container["args"] == JOB
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (libtpu,) = [
        e["value"] for e in container["env"] if e["name"] == "LIBTPU_INIT_ARGS"
    ]
    assert "data_parallel_all_reduce_opt" in libtpu  # of several slices


def test_bucket_is_mounted_where_the_arguments_say():
    made = make("--topology=v5e:4x4", "--bucket=b")
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert job["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (mount,) = job["spec"]["containers"][0]["volumeMounts"]
    (volume,) = job["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/mnt/b"}
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "b"


def test_topology_that_is_none_is_refused_by_its_name():
    with pytest.raises(subprocess.CalledProcessError) as error:
        make("--topology=v5e-256")
    assert "topology='v5e-256' is none" in error.value.stderr


def test_job_is_applied_followed_and_deleted(cloud):
    root = cloud()

    def run(*arguments):
        command = [str(ROOT / "launch/gke/run.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    run("run", "v5e:4x4", "image", *JOB)
    applied = json.loads((root / "applied.json").read_text())
    assert applied == make("--topology=v5e:4x4")
    for word in ("logs", "status", "delete"):
        run(word, "run")
    verbs = [line[1] for line in test_tpu.sent(root)]
    assert verbs == ["apply", "logs", "get", "get", "delete"]
    shown = run("--dry-run", "run", "v5e:4x4", "image", *JOB).stdout
    assert '"kind": "JobSet"' in shown and "kubectl apply" in shown
    assert len(test_tpu.sent(root)) == 5
