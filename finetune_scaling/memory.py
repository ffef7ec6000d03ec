"""How the C library keeps memory between the steps of a program on CPUs."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # mallopt's names for them, from malloc.h


def keep_freed_memory() -> None:
    """Lets glibc keep what XLA frees: large temporaries would otherwise go back to the system after each step and be
    faulted in anew, page by page, in the next (30,000 faults a step of a 300K model). Other C libraries are left alone.

    To be called before any library starts a thread: the number of arenas is settled when the first of them allocates,
    and the other arenas give every block above 64 MiB back.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
        library.mallopt(parameter, value)
