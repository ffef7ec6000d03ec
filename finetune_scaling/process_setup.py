"""Set-up of a command's process: logging, Ctrl-C, memory allocation and XLA's compilation cache."""

import ctypes
import logging
import os
import sys
from pathlib import Path
from typing import Any

import jax
from absl import logging as absl_logging

from finetune_scaling.errors import EXIT_INTERRUPTED, INTERRUPTED
from finetune_scaling.paths import user_path
from finetune_scaling.training.compilations import compiled_programs

CACHE_VARIABLE = "FINETUNE_SCALING_CACHE"
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # parameters of mallopt, from malloc.h


def set_up(*, accelerator: bool = True) -> None:
    """Set up the process of a command; to be called once, at the start of its main function.

    accelerator: False keeps JAX on the CPU, so that it neither waits for nor reports on accelerators.
    """
    if not accelerator:
        jax.config.update("jax_platforms", "cpu")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("finetune_scaling").setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs the errors that it raises
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # libraries' writes that fail after the first one
    sys.unraisablehook = _report_unraisable
    keep_freed_memory()
    enable_compilation_cache()
    compiled_programs()  # starts to count


def _report_unraisable(unraisable: Any) -> None:
    """Report an error in a finalizer or callback, which Python cannot raise; exit if it is Ctrl-C.

    Writes of TensorStore that end after their event loop are not reported: the failed save was raised before.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(EXIT_INTERRUPTED)  # safe at any moment: files are written atomically, the system releases locks
    is_from_extension = unraisable.object is None and unraisable.err_msg is None
    if not (is_from_extension and str(unraisable.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 64 MiB.

    XLA's temporaries on CPUs would otherwise be returned to the system after each step and faulted in again in the
    next one (30,000 page faults per step of a 300K model). Other C libraries are left unchanged.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
        library.mallopt(parameter, value)


def enable_compilation_cache() -> None:
    """Set the directory of XLA's persistent compilation cache.

    The environment variable FINETUNE_SCALING_CACHE names another directory; an empty value turns the cache off.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune_scaling" / "xla"
    directory = user_path(os.environ.get(CACHE_VARIABLE, default))
    if directory and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
