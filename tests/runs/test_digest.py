"""The digest of arrays: every change of a bit or index changes it, and no change of sharding does."""

import hashlib
import os
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.runs.digest import StreamingDigest, digest
from finetune_scaling.training.compilations import compiled_programs

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.uint32, np.int8, np.bool_)
SMALL, LARGE = (3, 5, 7), (300, 301)  # summed together with others, and separately


def array_of(seed: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Random bits, including NaNs and denormal numbers; random bools."""
    rng = np.random.default_rng(seed)
    if dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]


def finalized(x: np.ndarray) -> np.ndarray:
    """MurmurHash3's fmix32 by definition, in 64-bit integers."""
    x = x.astype(np.uint64) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def sums(elements: np.ndarray) -> list[int]:
    """The four sums of a vector, in Python integers."""
    bits = np.ascontiguousarray(elements).view(f"u{elements.itemsize}").astype(np.uint64)
    indices = finalized(np.arange(len(bits), dtype=np.uint64))
    factors, offsets = (
        (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F),
        (0x165667B1, 0x7F4A7C15, 0xD6E8FEB8, 0x94D049BB),
    )
    return [
        sum(map(int, finalized(bits ^ ((indices * factor + offset) & 0xFFFFFFFF)))) % 2**32
        for factor, offset in zip(factors, offsets, strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_matches_its_definition(dtype):
    large, small = array_of(0, LARGE, dtype), array_of(1, SMALL, dtype)
    name = np.dtype(dtype).name
    expected = hashlib.sha256(f"a {LARGE} {name};b {SMALL} {name};".encode())
    expected.update(np.array([sums(large.reshape(-1)), sums(small.reshape(-1))], "<u4").tobytes())
    assert digest({"b": small, "a": jnp.asarray(large)}) == expected.hexdigest()


def changed(array: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """A copy with a flipped bit, two exchanged elements, or a block of zeros, which may change nothing."""
    flat = array.copy().reshape(-1)
    first, second = rng.choice(flat.size, 2, replace=False)
    if how == "flip":
        flat.view(np.uint8)[first * flat.itemsize] ^= 1 if flat.dtype == bool else 1 << int(rng.integers(8))
    elif how == "swap":
        flat[[first, second]] = flat[[second, first]]
    else:
        flat[min(first, second) : max(first, second)] = 0
    return flat.reshape(array.shape)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    how=st.sampled_from(["flip", "swap", "zero"]),
    large=st.booleans(),
)
def test_a_changed_bit_index_or_block_changes_the_digest(seed, dtype, how, large):
    array = array_of(seed, LARGE if large else SMALL, dtype)
    other = changed(array, how, np.random.default_rng(seed))
    same = array.tobytes() == other.tobytes()
    assert (digest({"leaf": array}) == digest({"leaf": other})) == same


@pytest.mark.parametrize("shape", [(4, 4), (260, 260)])
def test_exchanged_leaves_names_shapes_and_dtypes_change_the_digest(shape):
    a, b = array_of(0, shape, np.float32), array_of(1, shape, np.float32)
    trees = [
        {"a": a, "b": b},
        {"a": b, "b": a},
        {"a": a.T, "b": b},
        {"a": a, "c": b},
        {"a": a.reshape(2, -1), "b": b},
        {"a": a.view(np.int32), "b": b},
        {"a": a},
        {"a": a, "b": b, "c": np.zeros(0, np.float32)},
        {"a": np.zeros(shape, np.float32), "b": b},
        {"a": np.full(shape, -0.0, np.float32), "b": b},
        {},
    ]
    assert len({digest(tree) for tree in trees}) == len(trees)


def test_dtypes_of_more_than_32_bits_raise():
    with pytest.raises(TypeError, match="optimizer/count: int64 has more than 32 bits"):
        digest({"optimizer": {"count": np.int64(1)}})


def test_trees_of_the_same_structure_share_one_program():
    before = compiled_programs()
    for seed in range(5):
        digest({"a": array_of(seed, (41, 43), np.float32), "b": array_of(seed, (330, 331), np.float32)})
    assert compiled_programs() - before == 1


MESHES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from finetune_scaling.runs import digest as module

rng = np.random.default_rng(0)
tree = {
    "kernel": rng.normal(size=(256, 512)).astype(np.float32),
    "stack": jnp.asarray(rng.normal(size=(4, 8, 16)), jnp.bfloat16),
    "count": np.int32(3),
}
unsharded = module.digest(tree)
assert module.digest(jax.device_put(tree, jax.devices()[3])) == unsharded
specs = {
    "rows": {"kernel": P("fsdp", "tensor"), "stack": P(None, "fsdp"), "count": P()},
    "columns": {"kernel": P("tensor", ("data", "fsdp")), "stack": P(None, None, "tensor"), "count": P()},
    "copies": {"kernel": P(), "stack": P(), "count": P()},
}
for shape in [(1, 2, 4), (1, 8, 1), (2, 2, 2), (8, 1, 1)]:
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    for spec in specs.values():
        sharded = {name: jax.device_put(leaf, NamedSharding(mesh, spec[name])) for name, leaf in tree.items()}
        assert module.digest(sharded) == unsharded, (shape, spec)
        large = [sharded["kernel"]]
        program = module._make_sums(mesh, tuple(leaf.dtype for leaf in large)).lower(large).compile().as_text()
        assert "all-gather" not in program, (shape, spec)
print(len(jax.devices()), "devices")
"""


def test_digest_is_the_same_on_any_mesh_without_gathering_large_leaves():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    result = subprocess.run([sys.executable, "-c", MESHES], env=environment, capture_output=True, text=True)
    assert result.stdout == "8 devices\n", result.stderr


@settings(deadline=None, max_examples=8)
@given(st.randoms(use_true_random=False))
def test_chunks_in_any_order_have_the_digest_of_the_complete_tree(random):
    leaves = {
        "b": array_of(0, LARGE, np.float32),
        "c": array_of(1, SMALL, np.float16),
        "a": array_of(2, (4,), np.float32),
    }
    leaves["d"] = array_of(3, (2, 200, 330), ml_dtypes.bfloat16)
    sums = StreamingDigest(
        {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in leaves.items()}
    )
    chunks = []
    for name, leaf in leaves.items():
        sizes = [-(-size // random.choice((1, 2))) for size in leaf.shape]
        for corner in np.ndindex(*(-(-size // step) for size, step in zip(leaf.shape, sizes, strict=True))):
            start = [index * step for index, step in zip(corner, sizes, strict=True)]
            box = tuple(slice(first, first + step) for first, step in zip(start, sizes, strict=True))
            chunks.append((name, sums.sums_of_chunk(name, leaf[box], start)))
    random.shuffle(chunks)
    assert sums.digest(chunks) == digest(leaves)
    assert sums.digest(chunks[1:]) != digest(leaves)
