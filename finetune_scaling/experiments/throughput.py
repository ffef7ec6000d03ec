"""Speed of training steps, without evaluations and saved checkpoints, and peak device memory."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import jax

from finetune_scaling.chips import chip_of_device


@dataclasses.dataclass
class Throughput:
    """Measures the speed of a training loop between its reports.

    tokens_per_step: positions computed without soft prompts. flops_per_step: by the convention of training/flops.py.
    """

    tokens_per_step: int
    flops_per_step: float
    _step: int | None = None  # of the last report; None before the first one
    _since: float = 0.0  # time of the last report, moved on by pauses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of a block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - began

    def measure(self, step: int) -> dict[str, float]:
        """Return the speed since the last report, which must have waited for its steps; peak memory if it is known.

        The first report of a process has no speed, since its steps include compilation.
        """
        previous, seconds = self._step, time.monotonic() - self._since
        self._step, self._since = step, time.monotonic()
        if previous is None or step == previous or seconds <= 0:  # a clock may stand still
            return _peak_memory()
        steps_per_second = (step - previous) / seconds
        flops = steps_per_second * self.flops_per_step
        chip = chip_of_device(jax.devices()[0].device_kind)
        utilization = {} if chip is None else {"mfu": flops / (chip.peak_flops * jax.device_count())}
        speed = {"tokens_per_second": steps_per_second * self.tokens_per_step, "flops_per_second": flops}
        return speed | utilization | _peak_memory()


def _peak_memory() -> dict[str, float]:
    """Return the largest number of bytes in use so far on the first device of this process; empty on CPUs."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {"peak_memory_bytes": statistics["peak_bytes_in_use"]} if "peak_bytes_in_use" in statistics else {}
