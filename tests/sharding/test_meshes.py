"""Losses are equal on one device and on eight: full tuning in every mesh shape, the others in some."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from finetune_scaling.tuning.registry import METHODS


@pytest.fixture(scope="module")
def losses(shared_cache) -> dict[str, dict[str, list[float]]]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("mesh_losses.py")],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_losses_are_the_same_on_all_meshes(losses, method):
    one = np.array(losses[method].pop("one device"))
    assert len(one) == 20
    assert one[-4:].mean() < 0.99 * one[:4].mean()  # the model learns, so that equality is meaningful
    for mesh, found in losses[method].items():
        np.testing.assert_allclose(found, one, rtol=1e-4, err_msg=mesh)
