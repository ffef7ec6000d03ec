"""Language codes in their usual spellings."""

import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import WITHOUT_TOKENIZER, base_language
from finetune_scaling.metrics.registry import METRICS, score


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("de", "de"),
        ("zh_CN", "zh"),
        ("ZH-Hans", "zh"),
        ("zho_Hans", "zh"),
        ("deu_Latn", "de"),
        ("A", "a"),
        ("yue_Hant", "zh"),
    ],
)
def test_spellings_of_a_code(code, language):
    assert base_language(code) == language


@pytest.mark.parametrize("name", ["German", "", "中文", "_de"])
def test_language_names_are_not_codes(name):
    with pytest.raises(DataError, match="is not a language code"):
        base_language(name)


@pytest.mark.parametrize("language", [*WITHOUT_TOKENIZER, "tha_Thai", "shn_Mymr"])
def test_a_language_without_a_tokenizer_has_character_metrics_only(language):
    text, reference = "ฉันชอบกินแอปเปิ้ล", "ฉันชอบกินส้ม"
    scores = score([text], [[reference]], language)
    assert list(scores) == ["bleu-char", "chrf"]
    assert 0 < scores["chrf"]["score"] < 100
    for name in ("bleu", "chrf++", "ter", "rouge1", "rougeL-nostem", "f1", "exact_match"):
        with pytest.raises(DataError, match=r"language .* --metrics=bleu-char,chrf"):
            METRICS[name].score(Corpus([text], [[reference]], language))
