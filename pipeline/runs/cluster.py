"""Ray: the cluster that RAY_ADDRESS names, or the embedded default on this machine.

Ray is imported inside functions here and in the other rooms that use it: `--help` must answer without it, and its
network settings are read at import.
"""

import logging
import os


def connect() -> None:
    """Attach to the cluster of RAY_ADDRESS (`ray job submit` sets it), or start Ray on this machine's loopback.

    A cluster that merely runs on this machine is not joined: what a command does should not depend on what else is
    up.
    """
    embedded = "RAY_ADDRESS" not in os.environ
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if embedded:
        # Ray 2.60 binds its ports to every interface and turns a node address of 127.0.0.1 back into the public one.
        # This switch, its own for single-machine use (ray-project/ray#18730), makes the loopback the node's address.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Ray Data announces every plan, here and in the training workers' splitters.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    import ray
    import ray.data

    if not ray.is_initialized():
        if embedded:
            # With the dashboard, for Ray Train asks its state service; both stay on the loopback.
            ray.init(address="local", dashboard_host="127.0.0.1", logging_level=logging.ERROR)
        else:
            ray.init(logging_level=logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours count clips


def default_workers(*, cpus_per_worker: int, device: str) -> int:
    """Workers that fill the connected cluster: one a GPU, or one for each `cpus_per_worker` CPUs; at least one."""
    if device == "cuda":
        return max(1, int(cluster_resource("GPU")))
    return max(1, int(cluster_resource("CPU")) // cpus_per_worker)


def cluster_resource(name: str) -> float:
    """How much of a resource ("CPU", "GPU") the connected cluster has."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(name, 0.0)
