"""Copies of finished runs; each module has its own fixture `finished`."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the module's finished run before it was scored."""
    directory = Path(shutil.copytree(finished, tmp_path / "run"))
    (directory / "result.json").unlink()
    return directory
