"""Freed memory stays with the process, also where a library has started threads on import."""

import subprocess
import sys

import pytest

# Each call makes and frees 256 MiB of temporaries on one of XLA's threads; a page is 4 KiB.
PROGRAM = """
import resource
import finetune_scaling.study
import jax, jax.numpy as jnp

def half_of_every_row(x):
    return jnp.sort(jnp.sin(x).reshape(-1, 8))[:, ::2].sum()

call = jax.jit(half_of_every_row)
x = jnp.ones(2**25)
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_command_faults_its_temporaries_in_only_once():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000
