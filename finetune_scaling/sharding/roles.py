"""Which of several processes does what: the first one writes what all of them share, and its word counts.

Knows no JAX, which not every command needs; a process that joins others (processes.py) says so here.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Role(NamedTuple):
    """first: whether this process writes. run_on_primary: see the function of that name."""

    first: bool
    run_on_primary: Callable[[Callable[[], Any]], Any]


_ALONE = Role(True, lambda function: function())
_role = [_ALONE]


def take(role: Role) -> None:
    """Makes this process one of several."""
    _role[0] = role


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While the first process does something that the others wait for, it is as if there were no others."""
    before, _role[0] = _role[0], _ALONE
    try:
        yield
    finally:
        _role[0] = before


def is_primary() -> bool:
    """Whether this process writes what all of them share; always so where there is only one."""
    return _role[0].first


def is_distributed() -> bool:
    """Whether other processes run the same program beside this one."""
    return _role[0] is not _ALONE


def run_on_primary(function: Callable[[], Any]) -> Any:
    """What `function` returns on the first process (JSON-like), on all of them; so too a UserError that it raises.

    All processes must call it, in the same order.
    """
    return _role[0].run_on_primary(function)
