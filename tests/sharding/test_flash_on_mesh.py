"""Flash attention with rows and heads sharded over eight devices equals plain attention on one."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_flash_attention_equals_plain_attention_on_every_mesh():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("flash_on_mesh.py")],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    sizes = found.pop("sizes")
    assert set(found) == {"1x8x1", "1x1x8", "1x2x4", "1x4x2", "2x2x2", "1x2x4, causal"}
    for mesh, differences in found.items():
        assert all(difference < 1e-5 * sizes[part] for part, difference in differences.items()), mesh
