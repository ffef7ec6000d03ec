"""English names of languages by ISO 639, BCP 47 and FLORES-200 codes, known or given."""

import re

import pytest

from finetune_scaling.data.language_names import language_name
from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.languages import tokenizer_language
from finetune_scaling.metrics.registry import default_metrics, score
from finetune_scaling.metrics.rouge import IdeogramsAndWords, rouge_tokenizer

# Some of the 204 codes of FLORES-200, of every script.
FLORES = re.findall(
    r"\w+",
    """
    ace_Arab ace_Latn amh_Ethi arb_Arab arb_Latn asm_Beng azj_Latn bel_Cyrl bod_Tibt ckb_Arab crh_Latn deu_Latn
    ell_Grek eng_Latn fil_Latn gaz_Latn heb_Hebr hin_Deva hye_Armn jpn_Jpan kas_Deva kat_Geor khm_Khmr kmr_Latn
    knc_Arab kor_Hang lao_Laoo lvs_Latn mal_Mlym min_Arab mni_Beng mya_Mymr nob_Latn ory_Orya pan_Guru pbt_Arab
    pes_Arab plt_Latn prs_Arab quy_Latn sat_Olck shn_Mymr sin_Sinh srp_Cyrl swh_Latn taq_Tfng tha_Thai uig_Arab
    uzn_Latn ydd_Hebr yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
    """,
)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("de", "German"),
        ("deu_Latn", "German"),
        ("de-1996", "German"),
        ("pt-BR", "Portuguese (Brazil)"),
        ("pt_PT", "Portuguese (Portugal)"),
        ("zh", "Chinese"),
        ("zho_Hans", "Chinese (Simplified)"),
        ("zh-Hant-HK", "Chinese (Traditional, Hong Kong SAR China)"),
        ("yue_Hant", "Cantonese (Traditional)"),
        ("sr-Cyrl", "Serbian (Cyrillic)"),
        ("sr-Latn", "Serbian (Latin)"),
        ("arb_Arab", "Arabic"),
        ("arb_Latn", "Arabic (Latin)"),
        ("es-419", "Spanish (Latin America)"),
        ("zh-yue", "Cantonese"),
        ("zh-cmn-Hans-CN", "Chinese (Simplified, China)"),
        ("de-u-co-phonebk", "German"),
        ("A", "A"),
        ("cs_CZ", "Czech (Czechia)"),
        ("sr_Latn_RS", "Serbian (Latin, Serbia)"),
        ("hi-Latn", "Hindi (Latin)"),
        ("iw", "Hebrew"),
    ],
)
def test_codes_have_english_names(code: str, name: str) -> None:
    assert language_name(code, "here") == name


def test_codes_of_flores_have_distinct_names() -> None:
    names = [language_name(code, "here") for code in FLORES]
    assert len(set(names)) == len(FLORES)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("German", "'German' is not a language code; give de$"),
        (" GERMAN", "give de$"),
        ("", "is not a language code"),
        ("de/x", "is not a language code"),
        ("xx", r"template.languages = \{'xx': 'its name'\}"),
        ("x-klingon", "has no known English name"),
        ("en_XX", "has no known English name"),
        ("de-ZZ", "has no known English name"),
        ("zh-Xxxx", "has no known English name"),
    ],
)
def test_other_codes_are_errors_that_say_how_to_name_them(code: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^here = .*{message}"):
        language_name(code, "here")


def test_a_given_name_replaces_a_known_one() -> None:
    given = {"cs_CZ": "Bohemian", "de": "Deutsch"}
    assert language_name("cs-CZ", "here", given) == "Bohemian"
    assert language_name("deu_Latn", "here", given) == "Deutsch"
    assert language_name("de-AT", "here", given) == "German (Austria)"
    assert language_name("x-klingon", "here", {"x-klingon": "Klingon"}) == "Klingon"
    with pytest.raises(ConfigError, match="not a language code"):
        language_name("not a code", "here", {"not a code": "x"})


def test_metrics_follow_the_language_and_not_its_form() -> None:
    assert {tokenizer_language(code) for code in ("zh", "zho_Hans", "zh-Hant-HK", "yue_Hant", "ZH_cn")} == {"zh"}
    assert {tokenizer_language(code) for code in ("de", "deu_Latn", "de-AT")} == {"de"}
    assert isinstance(rouge_tokenizer("jpn_Jpan"), IdeogramsAndWords)
    for code in ("zh-Latn", "nan_Latn", "ja-Latn-hepburn"):  # romanized: words with spaces
        assert not isinstance(rouge_tokenizer(code), IdeogramsAndWords)
        assert score(["ni hao"], [["ni hao"]], code, metrics=["bleu-none", "rouge1", "ter"])["rouge1"]["score"] == 100
    assert default_metrics("tha_Thai") == default_metrics("th") == ("bleu-char", "chrf")
    assert all(tokenizer_language(code) for code in FLORES)
