"""The configuration that base ships, on a machine of two cores without a GPU."""

import copy
from pathlib import Path

from tests.k8s.manifests import Manifest

_CPUS = 0.01
_HOST = "127.0.0.1"


def scale_to_machine(
    config: Manifest, *, model: Path, store: Path, keys: Path, port: int
) -> Manifest:
    """Return `config` with only what it takes from the machine changed.

    Those are CPUs, threads, the device, the size that is drawn at start, the address, and where
    weights, pictures and keys are.
    Labels, GPUs (a number to Ray), replicas, pools, Redis and roll-out stay as they are.
    """
    scaled = copy.deepcopy(config)
    scaled["http_options"] |= {"host": _HOST, "port": port}
    (application,) = scaled["applications"]
    args = application["args"]
    args["model"]["source"] = str(model)
    args["router"]["num_cpus"] = _CPUS
    for stage in (args["text_encoder"], *args["pools"], args["vae_decoder"]):
        stage |= {"num_cpus": _CPUS, "num_threads": 1, "device": "cpu"}
        if "warm_sizes" in stage:
            stage["warm_sizes"] = ["64x64"]
    args["store"] = {"kind": "folder", "path": str(store), "base_url": f"http://{_HOST}:{port}"}
    args["keys"]["file"] = str(keys)
    return scaled
