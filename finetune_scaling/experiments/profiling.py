"""A trace of some training steps, for TensorBoard's profile plugin and Perfetto."""

import logging
from typing import Any

import jax

from finetune_scaling.files import Location, local_path

log = logging.getLogger(__name__)

FOLDER = "profile"


class ProfileWindow:
    """Traces training steps into `directory`/profile. steps: first and last, counted from 1; None: no trace."""

    def __init__(self, directory: Location, steps: tuple[int, int] | None = None):
        """Raise WorkdirError if there are steps and the directory is not local."""
        self._steps = steps
        self._folder = None if steps is None else local_path(directory, "a profile") / FOLDER
        self._running = False

    def before(self, step: int) -> None:
        """Start the trace if `step` is the first of the window."""
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Wait for the result of the last step of the window, and write the trace."""
        if self._steps is not None and step == self._steps[1]:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Write a trace that was started, also if training ends before the last step of the window."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("profile of steps %d to %d: %s", *(self._steps or ()), self._folder)
