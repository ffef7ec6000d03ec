"""The number of programs that XLA compiled."""

import functools

import jax


def compiled_programs() -> int:
    """Return the number of programs that XLA has compiled, or loaded from its cache, since this was first called.

    Commands call it first when they start (process_setup.py).
    """
    return _counter()[0]


@functools.cache
def _counter() -> list[int]:
    counter = [0]

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            counter[0] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    return counter
