"""Software versions and devices of a run."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import finetune_scaling

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "sacrebleu", "numpy")


@functools.cache
def environment() -> dict[str, Any]:
    """Return versions, devices, and the git commit of the code if it is a checkout."""
    devices = jax.devices()
    return {
        "finetune_scaling": finetune_scaling.__version__,
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": {"count": len(devices), "kind": devices[0].device_kind, "platform": devices[0].platform},
        "processes": jax.process_count(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout, with + if files differ from it; None outside a checkout or without git."""
    folder = Path(finetune_scaling.__file__).parent
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
