"""What all tests share: where the real data is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and scaling data; tests that need it skip where FINETUNE_SCALING_DATA is unset."""
    folder = os.environ.get("FINETUNE_SCALING_DATA")
    if not folder:
        pytest.skip("FINETUNE_SCALING_DATA does not name a data folder")
    return Path(folder)
