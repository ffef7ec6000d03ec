"""Specifications of chips, and the slices that are offered.

A topology is KIND:SHAPE, such as v5e:4x4 or v5p:2x2x2 (a slice of a TPU pod), or KIND:COUNT, such as h100:8.
"""

import dataclasses
import difflib
import math

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Specification of one chip.

    hbm_bytes: memory that a program may use; for TPUs the limit of libtpu's compiler, less than the nominal size.
    peak_flops: dense bfloat16 FLOPs per second.
    hbm_bandwidth: bytes/s, reads and writes together.
    interconnect_bandwidth: bytes/s that a chip receives over all its links (half of the bidirectional figure).
    host_bandwidth: bytes/s to or from the host's memory; 0 if the chip uses that memory itself.
    shapes: shapes of the TPU slices that are offered.
    accelerator: the cloud's name of a slice, with {chips} or {cores}; empty for GPUs and CPUs.
    """

    kind: str
    hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    interconnect_bandwidth: float
    host_bandwidth: float
    shapes: tuple[tuple[int, ...], ...] = ()
    accelerator: str = ""

    @property
    def is_tpu(self) -> bool:
        """Return whether libtpu compiles programs for it."""
        return bool(self.shapes)

    @property
    def platform(self) -> str:
        """Return JAX's name of the platform: tpu, gpu or cpu."""
        if self.is_tpu:
            return "tpu"
        return "cpu" if self.kind == "cpu" else "gpu"

    def compiles(self, analytic: bool) -> bool:
        """Return whether plans for it are compiled; analytic: estimate for TPUs too."""
        return self.is_tpu and not analytic


_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)),
    *((8, 8, 16), (8, 16, 16)),
)

# TPUs: https://docs.cloud.google.com/tpu/docs/v4 (v5e, v5p, v6e), half of the bidirectional interconnect bandwidth;
# v4's links (six of 45 GB/s) and PCIe, of which Google has no figure: https://jax-ml.github.io/scaling-book/tpus.
# GPUs: https://www.nvidia.com/en-us/data-center/a100 (h100, h200), SXM, without sparsity; NVLink 3 has 600 GB/s both
# ways and NVLink 4 has 900, within one host; PCIe 4 has 64 GB/s both ways and PCIe 5 has 128.
# cpu: nominal, a host of 32 cores x 2 units x 8 float32 lanes (AVX2) x 2 operations x 2.1 GHz, and 10 Gbit/s Ethernet.
CHIPS: dict[str, Chip] = {
    chip.kind: chip
    for chip in (  # in the order of Chip's fields
        Chip("v4", int(30.75 * GIB), 275e12, 1200e9, 270e9, 15e9, _CUBES, "v4-{cores}"),  # of 32 GiB
        Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 200e9, 15e9, _SQUARES, "v5litepod-{chips}"),  # of 16 GB
        Chip("v5p", int(95.74 * GIB), 459e12, 2765e9, 600e9, 15e9, _CUBES, "v5p-{cores}"),  # sold as 95 GB
        Chip("v6e", int(31.25 * GIB), 918e12, 1638e9, 400e9, 15e9, _SQUARES, "v6e-{chips}"),  # of 32 GB
        Chip("a100", 80 * 10**9, 312e12, 2039e9, 300e9, 32e9),
        Chip("h100", 80 * 10**9, 989e12, 3350e9, 450e9, 64e9),
        Chip("h200", 141 * 10**9, 989e12, 4800e9, 450e9, 64e9),
        Chip("cpu", 256 * 10**9, 2.15e12, 100e9, 1.25e9, 0.0),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of connected chips. shape: the topology of a TPU slice; (count,) for GPUs and CPUs."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return kind and shape, such as v5e:4x4."""
        return f"{self.chip.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Return the number of chips."""
        return math.prod(self.shape)

    @property
    def host_shape(self) -> tuple[int, ...]:
        """Return the chips of one host along each axis: eight GPUs, 2x2 TPUs; 1x1 and 2x4 TPUs are one host, too."""
        if not self.chip.is_tpu:
            return (1,) if self.chip.platform == "cpu" else (8,)
        if self.shape in ((1, 1), (2, 4)):
            return self.shape
        return tuple(min(size, 2) for size in self.shape[:2]) + (1,) * (len(self.shape) - 2)

    @property
    def hosts(self) -> int:
        """Return the number of hosts."""
        return math.ceil(self.chips / math.prod(self.host_shape))

    @property
    def accelerator_type(self) -> str:
        """Return the value of gcloud's --accelerator-type; empty for GPUs and CPUs."""
        return self.chip.accelerator.format(chips=self.chips, cores=2 * self.chips)


def available_slices(chip: Chip) -> tuple[Slice, ...]:
    """Return the slices of a chip, smallest first: up to 512 GPUs or 8 CPU hosts."""
    if chip.is_tpu:
        return tuple(Slice(chip, shape) for shape in chip.shapes)
    most = 3 if chip.kind == "cpu" else 9
    return tuple(Slice(chip, (2**power,)) for power in range(most + 1))


def find_chip(kind: str, where: str = "--topology: the kind of chip") -> Chip:
    """Return a chip by its kind. Raises ConfigError that names `where` it was given and suggests a kind."""
    return configuration.choose(CHIPS, kind, where)


# Beginnings of JAX's names of devices, such as "NVIDIA H100 80GB HBM3".
_DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}


def chip_of_device(device_kind: str) -> Chip | None:
    """Return the chip with JAX's name of a device; None if it is unknown."""
    longest = max((name for name in _DEVICE_KINDS if device_kind.startswith(name)), key=len, default=None)
    return None if longest is None else CHIPS[_DEVICE_KINDS[longest]]


def find_slice(topology: str) -> Slice:
    """Return the slice of a topology such as v5e:4x4 or h100:8. Raises ConfigError with similar topologies."""
    kind, _, shape = topology.partition(":")
    chip = find_chip(kind)
    known = {found.name: found for found in available_slices(chip)}
    if not chip.is_tpu and shape.isdecimal() and int(shape) > 0:
        return Slice(chip, (int(shape),))
    if topology not in known:
        similar = difflib.get_close_matches(topology, known, n=3, cutoff=0.5) or list(known)
        raise ConfigError(f"--topology={topology} is unknown; choose for example {', '.join(similar)}")
    return known[topology]
