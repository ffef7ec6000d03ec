"""Package lists of the machine's apt sources, downloaded to a private directory: no root, no change to the system."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from finetune_scaling.errors import DataError

# language code -> its name in the file names of apt's lists
LANGUAGES = {"en": "en", "de": "de", "zh": "zh_CN"}
_HELPER = "/usr/lib/apt/apt-helper"
_COMPRESSED = (".lz4", ".gz", ".xz", ".bz2", ".zst", ".lzma")
_NO_APT = "; the debian tasks need a Debian or Ubuntu machine (such as Colab): use another task, or prepare it there"


def fetch_lists(folder: Path) -> Path:
    """Download package lists with descriptions in all `LANGUAGES` to `folder`, unless it exists; return it.

    Raises DataError if apt is missing or the download fails.
    """
    if folder.is_dir():
        return folder
    if not shutil.which("apt-get"):
        raise DataError(f"this machine has no apt-get{_NO_APT}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt_", dir=folder.parent) as temporary:
        lists = Path(temporary, "lists")
        Path(lists, "partial").mkdir(parents=True)
        messages = _update(lists, Path(temporary, "cache"))
        if not list_files(lists, "Translation-en"):
            raise DataError(f"apt-get update downloaded no descriptions; check /etc/apt and the network ({messages})")
        lists.rename(folder)
    return folder


def list_files(folder: Path, name: str) -> list[Path]:
    """Return the lists of one name, such as "Translation-de" or "Packages", of all repositories."""
    escaped = name.replace("_", "%5f")
    return sorted({*folder.glob(f"*_{name}"), *folder.glob(f"*_{name}.*"), *folder.glob(f"*_{escaped}*")})


def read_list(path: Path) -> str:
    """Read and decompress a list. Raises DataError if that fails."""
    if path.suffix not in _COMPRESSED:
        return path.read_text(encoding="utf-8", errors="replace")
    if not Path(_HELPER).exists():
        raise DataError(f"{path}: {_HELPER}, which reads it, is missing{_NO_APT}")
    done = subprocess.run([_HELPER, "cat-file", str(path)], capture_output=True, check=False)
    if done.returncode:
        raise DataError(f"{path} cannot be read ({_tail(done.stderr)}); delete its folder and prepare again")
    return done.stdout.decode("utf-8", errors="replace")


def _update(lists: Path, cache: Path) -> str:
    cache.mkdir()
    options = {
        "Dir::State::Lists": lists,
        "Dir::Cache": cache,
        "Acquire::Languages": ",".join(LANGUAGES.values()),
        "Acquire::Retries": 2,
        "Acquire::http::Timeout": 30,
        "APT::Sandbox::User": "root",  # apt's own user may have no access to a home directory
    }
    command = ["apt-get", "update", "-q"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, check=False)
    return _tail(done.stderr) or _tail(done.stdout)


def _tail(output: bytes) -> str:
    return " | ".join(output.decode("utf-8", errors="replace").strip().splitlines()[-3:])
