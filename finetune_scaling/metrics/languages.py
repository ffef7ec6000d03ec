"""Languages of texts, and whether a language is written with spaces between words."""

from finetune_scaling.errors import DataError
from finetune_scaling.metrics.language_codes import LanguageCode, parse_language_code

WRITTEN_WITHOUT_SPACES = ("zh", "ja")

# Scripts of languages that are written without spaces between words. Those of Thai, Lao, Khmer, Burmese and Tibetan
# have no tokenizer here, and their characters are not words.
_CHINESE_SCRIPTS = ("Hani", "Hans", "Hant")
_WITHOUT_TOKENIZER = ("Thai", "Laoo", "Khmr", "Mymr", "Tibt")
_WITHOUT_SPACES = (*_CHINESE_SCRIPTS, *_WITHOUT_TOKENIZER, "Jpan", "Hira", "Kana")


def language_of(code: str) -> str:
    """Return the written language of a code: "zh" for "zh", "zh_CN", "ZH-Hans" and "zho_Hans"; "yue" for "yue_Hant".

    Languages without spaces have them in Latin script, so "zh-Latn" is "zh-Latn", a language of words.

    Raises:
      DataError: `code` is not a language code, e.g. the name "German".
    """
    parsed = parse_language_code(code)
    romanized = parsed.script == "Latn" and LanguageCode(parsed.language).likely_script in _WITHOUT_SPACES
    return f"{parsed.language}-Latn" if romanized else parsed.language


def check_language(code: str, where: str) -> None:
    """Raise DataError that names `where` if a code is not a language code."""
    try:
        language_of(code)
    except DataError as error:
        raise DataError(f"{where} = {error}") from None


def tokenizer_language(code: str) -> str:
    """Return the language whose tokenizers apply to a code: "zh" for all languages in Chinese characters.

    Raises the error of `language_of`.
    """
    is_chinese = parse_language_code(code).likely_script in _CHINESE_SCRIPTS
    return "zh" if is_chinese else language_of(code)


def has_tokenizer(code: str) -> bool:
    """Return whether words of texts in a language can be told apart. Raises the error of `language_of`."""
    return parse_language_code(code).likely_script not in _WITHOUT_TOKENIZER


def check_tokenizer(metric: str, language: str) -> None:
    """Raise DataError if a word-based metric is used for a language without a tokenizer."""
    if not has_tokenizer(language):
        raise DataError(
            f"{metric}: language {language!r} is written without spaces and no tokenizer is available, so a "
            "sentence would count as one word; use --metrics=bleu-char,chrf"
        )
