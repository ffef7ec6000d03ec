"""Properties of the train step on TPUs, read from programs that libtpu compiles without a TPU."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("tpu_programs.py")
# Sizes of tests/sharding/tpu_programs.py; kernels are [384, features] or [features, 384], sharded by four or unsharded.
WIDTH, VOCABULARY, FEATURES, LAYERS = 384, 3072, (512, 128, 1280), 6
KERNELS = LAYERS * WIDTH * (2 * (512 + 128) + 3 * 1280)  # parameters in them
CHUNK = 1536  # rows of the table in a chunk of the cross-entropy: half of them; 2,048 have 2^24 logits of 8,192 tokens
GATHERS = ("all-gather", "all-gather-start")


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    pytest.importorskip("libtpu")
    folder = tmp_path_factory.mktemp("programs")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def materialised(text: str) -> list[tuple[str, str]]:
    """Return (shape, operation) of every materialised value; values inside fusions are not."""
    found, inside_fusion = [], False
    for line in text.splitlines():
        if re.match(r"(ENTRY )?%?[\w.-]+ .*\{$", line):
            inside_fusion = line.startswith(("%fused", "fused", "%bitcast_fusion", "%wrapped"))
        elif not inside_fusion and (match := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (\S.*?) ([a-z][a-z0-9-]*)\(", line)):
            found.append((match[1], match[2]))
    return found


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return dtype and dimensions of each array in an HLO shape."""
    return [
        (kind, tuple(int(size) for size in sizes.split(",") if size))
        for kind, sizes in re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", shape)
    ]


def is_kernel_shape(sizes: tuple[int, ...]) -> bool:
    """Return whether the last two dimensions are those of a kernel or the table, unsharded or sharded by four."""
    if len(sizes) < 2:
        return False
    for first, last in ((sizes[-2], sizes[-1]), (sizes[-1], sizes[-2])):
        if first in (WIDTH, WIDTH // 4) and last in (*FEATURES, VOCABULARY):
            return True
    return False


@pytest.mark.slow
def test_full_tuning_has_gradients_and_float32_copies(programs):
    """This shows that the checks of the next tests can fail."""
    values = materialised((programs / "full.txt").read_text())
    assert any(kind == "f32" and is_kernel_shape(sizes) for shape, _ in values for kind, sizes in arrays(shape))
    assert any(operation.startswith("reduce-scatter") for _, operation in values) or any(
        operation.startswith(("all-reduce", "collective-permute")) and is_kernel_shape(sizes)
        for shape, operation in values
        for _, sizes in arrays(shape)
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_pet_has_no_float32_copy_gradient_or_optimizer_state_of_the_frozen_base(programs, method):
    values = materialised((programs / f"{method}.txt").read_text())
    in_float32 = {
        (shape, operation)
        for shape, operation in values
        for kind, sizes in arrays(shape)
        if kind == "f32" and is_kernel_shape(sizes)
    }
    assert not in_float32
    reduced = {
        (shape, operation)
        for shape, operation in values
        if operation.startswith(("all-reduce", "reduce-scatter"))
        for _, sizes in arrays(shape)
        if is_kernel_shape(sizes)
    }
    assert not reduced
    sizes, full = (json.loads((programs / f"{name}.json").read_text()) for name in (method, "full"))
    # Only trainable parameters and their state are returned; TPUs pad narrow matrices to 128.
    assert sizes["output"] < 0.3 * full["output"]
    base = 2 * (VOCABULARY * WIDTH + KERNELS) / 4
    assert sizes["argument"] - sizes["output"] < 1.3 * base  # the base in bfloat16, sharded by four


@pytest.mark.slow
def test_full_tuning_gathers_one_layer_at_a_time(programs):
    """Gathered arrays are kernels of one layer, although layers are stacked, and chunks of the embedding table."""
    values = materialised((programs / "full.txt").read_text())
    gathered = {sizes for shape, operation in values if operation in GATHERS for _, sizes in arrays(shape)[-1:]}
    assert {tuple(sorted(sizes[-2:])) for sizes in gathered} >= {(128, WIDTH), (WIDTH, 1280)}
    assert max(math.prod(sizes) for sizes in gathered) == WIDTH * CHUNK
    sizes = json.loads((programs / "full.json").read_text())
    assert sizes["argument"] < 1.1 * 4 * (VOCABULARY * WIDTH + KERNELS) / 4  # float32 parameters, sharded by four
