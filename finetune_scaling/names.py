"""Names in configs that become names of files and directories: test sets, evaluators, tasks, families, model sizes."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from finetune_scaling.errors import ConfigError

MAX_BYTES = 100  # file systems allow 255, and a file's name may hold two such names
_NAME = re.compile(r"\w([\w.+-]*\w)?")


def check_file_names(names: Iterable[str], where: str) -> None:
    """Raise ConfigError if a name cannot be part of a path on common file systems, or two names are the same on some.

    Names that only Windows reserves, such as CON, are accepted.
    """
    by_key: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name) or len(name.encode()) > MAX_BYTES:
            raise ConfigError(
                f"{where}: {name!r} becomes the name of a file or directory. Fix: use at most {MAX_BYTES} letters, "
                "digits, _ and, between them, . + -"
            )
        other = by_key.setdefault(file_key(name), name)
        if other != name:
            raise ConfigError(f"{where}: {other!r} and {name!r} are one file on some systems. Fix: rename one of them")


def joint_name(names: Sequence[str]) -> str:
    """Return a name for several file names: joined by @, which none of them contains, or a digest if that is long."""
    joint = "@".join(names)
    if len(joint.encode()) <= MAX_BYTES:
        return joint
    return f"{len(names)}@{hashlib.sha256(joint.encode()).hexdigest()[:12]}"


def file_key(name: str) -> str:
    """Return what is equal for names that are one file on some systems: without case, in one Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()
