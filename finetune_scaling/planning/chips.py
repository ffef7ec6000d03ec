"""Specifications of chips, each with its public source, and the slices that are offered.

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
    source: where the figures are published.
    shapes: shapes of the TPU slices that are offered.
    accelerator: the cloud's name of a slice, with {chips} or {cores}; empty for GPUs and CPUs.
    """

    kind: str
    hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    interconnect_bandwidth: float
    host_bandwidth: float
    chips_per_host: int
    source: str
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


_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)),
    *((8, 8, 16), (8, 16, 16)),
)
_TPU_PCIE = 15e9  # https://jax-ml.github.io/scaling-book/tpus; Google's pages give no figure
_TPU_PAGES = "https://docs.cloud.google.com/tpu/docs/"

CHIPS: dict[str, Chip] = {
    chip.kind: chip
    for chip in (
        Chip(
            kind="v4",
            hbm_bytes=int(30.75 * GIB),  # of 32 GiB
            peak_flops=275e12,
            hbm_bandwidth=1200e9,
            interconnect_bandwidth=270e9,  # six links of 45 GB/s
            host_bandwidth=_TPU_PCIE,
            chips_per_host=4,
            source=_TPU_PAGES + "v4; links: https://jax-ml.github.io/scaling-book/tpus",
            shapes=_CUBES,
            accelerator="v4-{cores}",
        ),
        Chip(
            kind="v5e",
            hbm_bytes=int(15.75 * GIB),  # of 16 GB
            peak_flops=197e12,
            hbm_bandwidth=819e9,
            interconnect_bandwidth=200e9,  # bidirectional: 400 GB/s
            host_bandwidth=_TPU_PCIE,
            chips_per_host=4,
            source=_TPU_PAGES + "v5e",
            shapes=_SQUARES,
            accelerator="v5litepod-{chips}",
        ),
        Chip(
            kind="v5p",
            hbm_bytes=int(95.74 * GIB),  # sold as 95 GB
            peak_flops=459e12,
            hbm_bandwidth=2765e9,
            interconnect_bandwidth=600e9,  # 4,800 Gbit/s
            host_bandwidth=_TPU_PCIE,
            chips_per_host=4,
            source=_TPU_PAGES + "v5p",
            shapes=_CUBES,
            accelerator="v5p-{cores}",
        ),
        Chip(
            kind="v6e",
            hbm_bytes=int(31.25 * GIB),  # of 32 GB
            peak_flops=918e12,
            hbm_bandwidth=1638e9,
            interconnect_bandwidth=400e9,  # bidirectional: 800 GB/s
            host_bandwidth=_TPU_PCIE,
            chips_per_host=4,
            source=_TPU_PAGES + "v6e",
            shapes=_SQUARES,
            accelerator="v6e-{chips}",
        ),
        Chip(
            kind="a100",
            hbm_bytes=80 * 10**9,
            peak_flops=312e12,
            hbm_bandwidth=2039e9,
            interconnect_bandwidth=300e9,  # NVLink 3: 600 GB/s both ways, within one host
            host_bandwidth=32e9,  # PCIe 4: 64 GB/s both ways
            chips_per_host=8,
            source="https://www.nvidia.com/en-us/data-center/a100 (SXM, 80 GB)",
        ),
        Chip(
            kind="h100",
            hbm_bytes=80 * 10**9,
            peak_flops=989e12,
            hbm_bandwidth=3350e9,
            interconnect_bandwidth=450e9,  # NVLink 4: 900 GB/s both ways, within one host
            host_bandwidth=64e9,  # PCIe 5: 128 GB/s both ways
            chips_per_host=8,
            source="https://www.nvidia.com/en-us/data-center/h100 (SXM; without sparsity)",
        ),
        Chip(
            kind="h200",
            hbm_bytes=141 * 10**9,
            peak_flops=989e12,
            hbm_bandwidth=4800e9,
            interconnect_bandwidth=450e9,
            host_bandwidth=64e9,
            chips_per_host=8,
            source="https://www.nvidia.com/en-us/data-center/h200 (SXM; without sparsity)",
        ),
        Chip(
            kind="cpu",  # a host is one chip
            hbm_bytes=256 * 10**9,
            peak_flops=2.15e12,  # 32 cores x 2 units x 8 float32 lanes x 2 operations x 2.1 GHz
            hbm_bandwidth=100e9,
            interconnect_bandwidth=1.25e9,  # 10 Gbit/s
            host_bandwidth=0.0,
            chips_per_host=1,
            source="nominal: a server of 32 cores with AVX2 at 2.1 GHz, float32; not a vendor's figure",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of connected chips. shape: the topology of a TPU slice; (count,) for GPUs and CPUs."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def host_shape(self) -> tuple[int, ...]:
        """Return the chips of one host along each axis of a TPU slice; 1x1 and 2x4 are one host."""
        if self.shape in ((1, 1), (2, 4)):
            return self.shape
        return tuple(min(size, 2) for size in self.shape[:2]) + (1,) * (len(self.shape) - 2)

    @property
    def hosts(self) -> int:
        per_host = math.prod(self.host_shape) if self.chip.is_tpu else self.chip.chips_per_host
        return math.ceil(self.chips / per_host)

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
