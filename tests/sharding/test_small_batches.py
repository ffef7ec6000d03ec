"""A batch with fewer rows than devices: the error names a layout that works, and it computes the same losses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from finetune_scaling.errors import ConfigError
from finetune_scaling.sharding.mesh import MESH_AXES, ShardingConfig, check_batch


def check(size: int, accumulation: int, sharding: ShardingConfig, devices: int) -> None:
    check_batch(size, accumulation, sharding, AbstractMesh(sharding.shape(devices), MESH_AXES))


def test_sixteen_rows_on_32_devices_need_two_devices_per_row():
    with pytest.raises(ConfigError, match=r"batch\.size to a multiple of 32, or set sharding\.tensor = 2,"):
        check(16, 1, ShardingConfig(), 32)
    check(16, 1, ShardingConfig(tensor=2), 32)


@given(st.integers(1, 64), st.integers(1, 4), st.sampled_from([-1, 1, 2, 4]), st.sampled_from([8, 12, 32, 256]))
def test_the_fixes_of_the_error_are_right(size, accumulation, fsdp, devices):
    size *= accumulation
    try:
        check(size, accumulation, ShardingConfig(fsdp), devices)
    except ConfigError as error:
        multiple = int(re.search(r"multiple of (\d+)", str(error))[1])
        check(multiple, accumulation, ShardingConfig(fsdp), devices)
        if tensor := re.search(r"sharding.tensor = (\d+)", str(error)):
            check(size, accumulation, ShardingConfig(fsdp, int(tensor[1])), devices)


@pytest.mark.slow
def test_a_batch_of_16_has_the_same_losses_on_32_devices(shared_cache):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=32"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("small_batch_losses.py")],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["devices"], found["batch"]) == (32, 16)
    assert found["one"][-1] < found["one"][0]
    np.testing.assert_allclose(found["many"], found["one"], rtol=1e-4)
