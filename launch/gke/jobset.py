"""Makes a JobSet manifest: a job on a TPU topology of a GKE cluster, as JSON.

    python launch/gke/jobset.py --name run --topology v5e:16x16 --image IMAGE --spot -- \
        --config configs/pretrain.py:7b --workdir /mnt/bucket/run | kubectl apply -f -

One Job a slice, one pod a host. Exit codes 2 and 3 (a mistake, bad numbers) end it for
good; after anything else, a lost node among it, all pods are started again, from the last
checkpoint. `kubectl` reads JSON as it reads YAML. Needs the JobSet controller on the
cluster (github.com/kubernetes-sigs/jobset) and nodes of that topology.

Source of the labels: cloud.google.com/kubernetes-engine/docs/concepts/tpus.
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
    chips = {"google.com/tpu": min(num_chips, _CHIPS_A_HOST)}
    libtpu = " ".join(flags.flags(generation, num_slices))
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "nodeSelector": selector,
        "containers": [
            {
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
        ],
    }
    job = {
        "parallelism": num_hosts,
        "completions": num_hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "cm3leon",
                        "operator": "In",
                        "values": _NOT_AGAIN,
                    },
                }
            ]
        },
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            # A slice is a node pool: no two of its hosts from different ones.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": (
                    "cloud.google.com/gke-nodepool"
                )
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": max_restarts,
                "rules": [
                    {
                        "name": "notAgain",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": num_slices, "template": {"spec": job}}
            ],
        },
    }


def main() -> None:
    """Prints the manifest."""
    parser = argparse.ArgumentParser(description="A JobSet manifest, as JSON.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--topology", required=True, help="of a slice: v5e:16x16")
    parser.add_argument("--image", required=True)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--spot", action="store_true")
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
            max_restarts=given.max_restarts,
        )
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
