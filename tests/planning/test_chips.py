"""Names and hosts of slices, and errors for unknown topologies."""

import pytest

from finetune_scaling.chips import CHIPS, available_slices, chip_of_device, find_slice
from finetune_scaling.errors import ConfigError


@pytest.mark.parametrize(
    ("topology", "accelerator", "chips", "hosts"),
    [  # from the tables of https://docs.cloud.google.com/tpu/docs/v5e and similar pages
        ("v5e:1x1", "v5litepod-1", 1, 1),
        ("v5e:2x2", "v5litepod-4", 4, 1),
        ("v5e:2x4", "v5litepod-8", 8, 1),
        ("v5e:4x4", "v5litepod-16", 16, 4),
        ("v5e:16x16", "v5litepod-256", 256, 64),
        ("v6e:8x8", "v6e-64", 64, 16),
        ("v4:2x2x1", "v4-8", 4, 1),
        ("v4:4x4x4", "v4-128", 64, 16),
        ("v5p:2x2x2", "v5p-16", 8, 2),
        ("v5p:8x8x8", "v5p-1024", 512, 128),
    ],
)
def test_slices_have_the_names_of_the_cloud(topology: str, accelerator: str, chips: int, hosts: int) -> None:
    found = find_slice(topology)
    assert (found.name, found.accelerator_type, found.chips, found.hosts) == (topology, accelerator, chips, hosts)


def test_gpus_are_counted() -> None:
    assert (find_slice("h100:24").chips, find_slice("h100:24").hosts) == (24, 3)


@pytest.mark.parametrize(
    ("topology", "similar"),
    [
        ("v5e:4x5", "v5e:4x4"),
        ("v5p:2x2", "v5p:2x2x2"),
        ("v5:4x4", "did you mean 'v5"),
        ("h100:none", "h100:8"),
        ("h100:0", "choose for example h100:"),
        ("4x4", "choose one of|did you mean"),
    ],
)
def test_unknown_topologies_are_errors_with_similar_ones(topology: str, similar: str) -> None:
    with pytest.raises(ConfigError, match=similar):
        find_slice(topology)


def test_slices_are_sorted_by_size() -> None:
    for chip in CHIPS.values():
        sizes = [found.chips for found in available_slices(chip)]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("device_kind", "kind"),
    [
        *(("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5e", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p")),
        *(("TPU v6 lite", "v6e"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA H100 80GB HBM3", "h100")),
        *(("NVIDIA H200", "h200"), ("cpu", None), ("NVIDIA GeForce RTX 4090", None)),
    ],
)
def test_chips_are_found_by_the_names_that_jax_gives_devices(device_kind, kind):
    chip = chip_of_device(device_kind)
    assert (chip.kind if chip else None) == kind
