"""TPU slices as JAX devices on a machine without a TPU; libtpu describes them and compiles for them."""

import importlib.util
import math
import os

import jax

from finetune_scaling.chips import Slice
from finetune_scaling.errors import ConfigError

# Variables that libtpu reads when it is loaded. Without the first it waits for a metadata server; without the last, a
# second process that compiles at the same time fails at /tmp/libtpu_lockfile (a real TPU has one owner).
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare_environment(slice_: Slice) -> None:
    """Set libtpu's environment variables and keep JAX on the CPU; to be called before JAX uses a device.

    Raises ConfigError if libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "libtpu, which compiles for TPUs, is not installed; pip install -e .[test] on a machine without TPU, "
            ".[tpu] on one with a TPU, or give --analytic to plan without compiling"
        )
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", slice_.accelerator_type)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a program for a TPU cannot be read back without one


def devices(slice_: Slice) -> list[jax.Device]:
    """Return the chips of a slice as devices, for which programs can be compiled but not run."""
    from jax.experimental import topologies

    hosts = (*slice_.host_shape, 1)[:3]
    options = {"chips_per_host_bounds": hosts}
    if slice_.chip.kind == "v4":
        options["chip_config_name"] = "megacore"  # type: ignore[assignment]  # otherwise the two cores are two devices
    found = topologies.get_topology_desc(platform="tpu", topology_name=slice_.name, **options).devices
    if len(found) != slice_.chips:
        raise RuntimeError(f"libtpu describes {slice_.name} by {len(found)} devices, not {math.prod(slice_.shape)}")
    return list(found)
