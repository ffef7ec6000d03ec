"""Language codes in their usual forms."""

import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.languages import language_of, tokenizer_language
from finetune_scaling.metrics.registry import METRICS, score


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("de", "de"),
        ("zh_CN", "zh"),
        ("ZH-Hans", "zh"),
        ("zho_Hans", "zh"),
        ("deu_Latn", "de"),
        ("ger", "de"),
        ("CHI_Hans", "zh"),
        ("A", "A"),
        ("zh-cmn-Hans-CN", "zh"),
        ("yue_Hant", "yue"),
        ("zh-yue", "yue"),
        ("ZH-Min-NAN", "nan"),
        ("zh-Latn-pinyin", "zh-Latn"),
        ("de-CH-1996", "de"),
        ("sl-rozaj-biske-1994", "sl"),
        ("de-u-co-phonebk", "de"),
        ("en-a-bbb-x-a-ccc", "en"),
        ("X-Klingon", "x-klingon"),
    ],
)
def test_forms_of_a_code(code, language):
    """Codes of FLORES-200, of ISO 639-2/B, and examples of RFC 5646, appendix A."""
    assert language_of(code) == language


@pytest.mark.parametrize("name", ["German", "", "中文", "_de", "en_!!", "de-", "de\n", "ar-a", "de-419-DE", "\u212ao"])
def test_other_texts_are_not_codes(name):
    with pytest.raises(DataError, match="is not a language code"):
        language_of(name)


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("yue_Hant", "zh"),
        ("wuu", "zh"),
        ("lzh_Hani", "zh"),
        ("nan_Hant", "zh"),
        ("hak", "zh"),
        ("gan", "zh"),
        ("zh-yue-HK", "zh"),
        ("nan_Latn", "nan-Latn"),
    ],
)
def test_languages_in_chinese_characters_share_tokenizers(code, language):
    assert tokenizer_language(code) == language


@pytest.mark.parametrize("language", ["th", "lo", "km", "my", "bo", "dz", "shn", "tha_Thai", "shn_Mymr", "mnw"])
def test_a_language_without_a_tokenizer_has_character_metrics_only(language):
    text, reference = "ฉันชอบกินแอปเปิ้ล", "ฉันชอบกินส้ม"
    scores = score([text], [[reference]], language)
    assert list(scores) == ["bleu-char", "chrf"]
    assert 0 < scores["chrf"]["score"] < 100
    for name in ("bleu", "chrf++", "ter", "rouge1", "rougeL-nostem", "f1", "exact_match"):
        with pytest.raises(DataError, match=r"language .* --metrics=bleu-char,chrf"):
            METRICS[name].score(Corpus([text], [[reference]], language))
