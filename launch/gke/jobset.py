"""Makes a JobSet manifest: a job on a TPU topology of a GKE cluster, as JSON.

    python launch/gke/jobset.py --name run --topology v5e:16x16 --image IMAGE --spot -- \
        --config configs/pretrain.py:7b --workdir /mnt/bucket/run | kubectl apply -f -

One Job a slice, one pod a host. Exit codes 2 and 3 (a mistake, bad numbers) end it for
good; after anything else, a lost node among it, all pods are started again, from the last
checkpoint. `kubectl` reads JSON as it reads YAML. Needs the JobSet controller on the
cluster (github.com/kubernetes-sigs/jobset), nodes of that topology, and for --bucket the
driver for gcsfuse and a service account that may write the bucket.

Sources: cloud.google.com/kubernetes-engine/docs/concepts/tpus and
how-to/cloud-storage-fuse-csi-driver-setup.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import flags

# generation -> the label's value; all of them have four chips a host, in topologies of
# more than one host.
_ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
_CHIPS_A_HOST = 4
_NOT_AGAIN = [2, 3]  # exit codes that another start would end with too
_GRACE_SECONDS = 300  # from SIGTERM to SIGKILL: a step and a checkpoint
_PORTS = [8471, 8080, 8482]  # libtpu's, its metrics', JAX's coordinator


def manifest(
    name: str,
    topology: str,
    image: str,
    arguments: Sequence[str],
    *,
    num_slices: int = 1,
    is_spot: bool = False,
    bucket: str = "",
    max_restarts: int = 100,
) -> dict[str, Any]:
    """Returns the manifest.

    Args:
      name: of the JobSet.
      topology: chips of a slice, "v5e:16x16".
      image: made by `launch/gke/Dockerfile`.
      arguments: of the `cm3leon` command.
      num_slices: slices that work together.
      is_spot: whether nodes may be taken away.
      bucket: of Google Storage, mounted in every pod at /mnt/bucket's name.
      max_restarts: how often everything is started again.

    Raises:
      ValueError: if the topology is none.
    """
    generation, _, layout = topology.partition(":")
    sizes = layout.split("x")
    if generation not in _ACCELERATORS or not all(size.isdigit() for size in sizes):
        known = ", ".join(_ACCELERATORS)
        raise ValueError(
            f"topology={topology!r} is none; write v5e:16x16, of one of {known}"
        )
    num_chips = math.prod(int(size) for size in sizes)
    num_hosts = max(1, num_chips // _CHIPS_A_HOST)
    selector = {
        "cloud.google.com/gke-tpu-accelerator": _ACCELERATORS[generation],
        "cloud.google.com/gke-tpu-topology": layout,
    }
    if is_spot:
        selector["cloud.google.com/gke-spot"] = "true"
    libtpu = " ".join(flags.flags(generation, num_slices))
    pod = _pod(image, arguments, libtpu, min(num_chips, _CHIPS_A_HOST), bucket)
    pod["spec"]["nodeSelector"] = selector
    restarts = {
        "maxRestarts": max_restarts,
        "rules": [
            {
                "name": "notAgain",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
    }
    slices = {"name": "slice", "replicas": num_slices}
    slices["template"] = {"spec": _job(pod, num_hosts)}
    # A slice is a node pool: no two of its hosts from different ones.
    topology_key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "annotations": {topology_key: "cloud.google.com/gke-nodepool"},
        },
        "spec": {"failurePolicy": restarts, "replicatedJobs": [slices]},
    }


def _pod(
    image: str, arguments: Sequence[str], libtpu: str, num_chips: int, bucket: str
) -> dict[str, Any]:
    """A host: its container, with its chips."""
    chips = {"google.com/tpu": num_chips}
    container: dict[str, Any] = {
        "name": "cm3leon",
        "image": image,
        "command": ["python", "-m", "cm3leon_jax.main"],
        "args": list(arguments),
        "env": [
            {"name": "CM3LEON_HOSTS", "value": "auto"},
            {"name": "LIBTPU_INIT_ARGS", "value": libtpu},
        ],
        "ports": [{"containerPort": port} for port in _PORTS],
        "resources": {"requests": chips, "limits": chips},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [container],
    }
    if not bucket:
        return {"spec": spec}
    container["volumeMounts"] = [{"name": "bucket", "mountPath": f"/mnt/{bucket}"}]
    spec["volumes"] = [_volume(bucket)]
    return {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": spec}


def _job(pod: dict[str, Any], num_hosts: int) -> dict[str, Any]:
    """A slice: as many pods at a time as it has hosts; one that fails ends them all."""
    codes = {"containerName": "cm3leon", "operator": "In", "values": _NOT_AGAIN}
    return {
        "parallelism": num_hosts,
        "completions": num_hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]},
        "template": pod,
    }


def _volume(bucket: str) -> dict[str, Any]:
    """A bucket as a volume, by the cluster's driver for gcsfuse."""
    attributes = {
        "bucketName": bucket,
        "mountOptions": "implicit-dirs,rename-dir-limit=100000",
    }
    driver = "gcsfuse.csi.storage.gke.io"
    return {"name": "bucket", "csi": {"driver": driver, "volumeAttributes": attributes}}


def main() -> None:
    """Prints the manifest."""
    parser = argparse.ArgumentParser(description="A JobSet manifest, as JSON.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--topology", required=True, help="of a slice: v5e:16x16")
    parser.add_argument("--image", required=True)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--bucket", default="", help="mounted at /mnt/BUCKET")
    parser.add_argument("--max-restarts", type=int, default=100)
    parser.add_argument("arguments", nargs="*", help="of the job, after --")
    given = parser.parse_args()
    try:
        made = manifest(
            given.name,
            given.topology,
            given.image,
            given.arguments,
            num_slices=given.slices,
            is_spot=given.spot,
            bucket=given.bucket,
            max_restarts=given.max_restarts,
        )
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
