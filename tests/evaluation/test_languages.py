"""Language codes in their usual spellings."""

import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.languages import base_language


@pytest.mark.parametrize(
    ("code", "language"),
    [("de", "de"), ("zh_CN", "zh"), ("ZH-Hans", "zh"), ("zho_Hans", "zh"), ("deu_Latn", "de"), ("A", "a")],
)
def test_spellings_of_a_code(code, language):
    assert base_language(code) == language


@pytest.mark.parametrize("name", ["German", "", "中文", "_de"])
def test_names_are_no_codes(name):
    with pytest.raises(DataError, match="is not a language code"):
        base_language(name)
