"""Bootstrap draws of several fits side by side.

What was measured of different tasks or methods shares no luck, and neither may their draws. So each task and method has
an order of its own, in which draws are paired by their place. Both laws of one task and method keep the same order, and
so do all its parameters.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from finetune_scaling.scaling.fitting.staged_fit import StagedFit


def order(fit: StagedFit) -> np.ndarray:
    """The order [R] in which a fit's draws are paired with those of other fits."""
    own = zlib.crc32(f"{fit.task}\n{fit.method}".encode())
    return np.random.default_rng(own).permutation(len(fit.draws))


def paired_vectors(fit: StagedFit) -> np.ndarray:
    """A fit's draws [R, K] in its order."""
    return fit.draws[order(fit)]


def paired_parameters(fit: StagedFit) -> Mapping[str, np.ndarray]:
    """Printed parameters [R] of a fit's draws in its order, by name."""
    return fit.layout.to_natural(paired_vectors(fit))


def paired_count(*fits: StagedFit) -> int:
    """How many draws all of these fits have."""
    return min(len(fit.draws) for fit in fits)
