"""TPU slices as JAX devices on a machine that has no TPU: libtpu describes them, and compiles for them."""

import importlib.util
import math
import os

import jax

from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.chips import Slice

# What libtpu asks for before it is loaded. Without the first it asks a metadata server that is not there and waits;
# without the last, a second process that compiles at the same time ends with an error about a lock file: libtpu holds
# /tmp/libtpu_lockfile for as long as a process lives, since a real TPU can have one owner only.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare_environment(slice_: Slice) -> None:
    """Sets what libtpu needs, and keeps JAX itself on the CPU. To be called before JAX uses any device.

    Raises ConfigError where libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "libtpu is not installed, which compiles for TPUs; pip install -e .[test] where there is no TPU, .[tpu] "
            "where there is one, or give --analytic to plan without compiling"
        )
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", slice_.accelerator_type)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a program for a TPU cannot be read back without one


def devices(slice_: Slice) -> list[jax.Device]:
    """The chips of a slice, one device each; programs can be compiled for them, not run."""
    from jax.experimental import topologies

    hosts = (*slice_.host_shape, 1)[:3]
    options = {"chips_per_host_bounds": hosts}
    if slice_.chip.kind == "v4":
        options["chip_config_name"] = "megacore"  # type: ignore[assignment]  # otherwise the two cores are two devices
    found = topologies.get_topology_desc(platform="tpu", topology_name=slice_.name, **options).devices
    if len(found) != slice_.chips:
        raise RuntimeError(f"libtpu describes {slice_.name} by {len(found)} devices, not {math.prod(slice_.shape)}")
    return list(found)
