"""The example method of docs/methods.md, which a user would add to the registry."""

import re
from pathlib import Path

import pytest

from finetune_scaling.tuning.method import MethodSpec
from finetune_scaling.tuning.registry import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture(scope="session")
def example_spec() -> MethodSpec:
    """Return the MethodSpec of the code block of docs/methods.md."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    module: dict = {"__name__": "gain"}
    exec("".join(blocks), module)
    return module["SPEC"]


@pytest.fixture
def example_method(example_spec: MethodSpec, monkeypatch: pytest.MonkeyPatch) -> MethodSpec:
    """Register the example method for one test."""
    monkeypatch.setitem(METHODS, example_spec.name, example_spec)
    return example_spec
