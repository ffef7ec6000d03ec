"""Bootstrap: a law refitted to resampled points, which carries their scatter into every number made from the law."""

import numpy as np

RESAMPLES = 200
SEED = 0


def case_weights(count: int, resamples: int, seed: int = SEED) -> np.ndarray:
    """How often each of `count` settings is drawn, with replacement, in each resample: weights [R, P]."""
    random = np.random.default_rng(seed)
    return random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
