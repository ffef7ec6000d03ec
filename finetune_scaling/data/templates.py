"""Templates that render the input and target text of an example, with names of languages."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError

# English names by ISO code; A, B and C are the artificial languages of data/grammar.
LANGUAGE_NAMES = {
    "A": "A", "B": "B", "C": "C",
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian",
    "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati",
    "ha": "Hausa", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "ig": "Igbo", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian",
    "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "ky": "Kyrgyz", "lo": "Lao", "lt": "Lithuanian",
    "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay",
    "mt": "Maltese", "my": "Burmese", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pa": "Punjabi",
    "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "si": "Sinhala",
    "sk": "Slovak", "sl": "Slovenian", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish",
    "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "th": "Thai", "tl": "Tagalog", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "xh": "Xhosa", "yo": "Yoruba",
    "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip

_PLACEHOLDERS = ("source", "target", "source_language", "target_language")


@dataclass(frozen=True)
class Template:
    """Two patterns with the placeholders {source}, {target}, {source_language} and {target_language}.

    The model reads the input, and is trained and scored on the target. Raises ConfigError if a placeholder is
    unknown or missing, or the input contains the target.
    """

    input: str
    target: str = "{target}"

    def __post_init__(self) -> None:
        for name, pattern, needed in (("input", self.input, "source"), ("target", self.target, "target")):
            found = placeholders(pattern, f"template.{name}", _PLACEHOLDERS)
            if needed not in found:
                raise ConfigError(f"template.{name} = {pattern!r} has no {{{needed}}}; add it")
            if name == "input" and "target" in found:
                raise ConfigError("template.input contains {target}, which the model has to predict; remove it")

    def render(self, example: Mapping[str, Any]) -> tuple[str, str]:
        """Return the input text and the target text of an example."""
        values = {
            "source": example["source"],
            "target": example["target"],
            "source_language": language_name(example["source_language"], "source_language"),
            "target_language": language_name(example["target_language"], "target_language"),
        }
        return self.input.format_map(values), self.target.format_map(values)


def language_name(code: str, where: str) -> str:
    """Return the English name of a language code. Raises ConfigError, naming the field `where`, if it is unknown."""
    if code not in LANGUAGE_NAMES:
        hint = suggestion(code, LANGUAGE_NAMES)
        fix = hint if "did you mean" in hint else "; add it to LANGUAGE_NAMES in templates.py"
        raise ConfigError(f"{where} = {code!r} is not a language code{fix}")
    return LANGUAGE_NAMES[code]


def placeholders(pattern: str, where: str, known: Sequence[str]) -> list[str]:
    """Return the names in braces of a pattern, in order.

    Raises ConfigError, naming the field `where`, on unbalanced braces, an unknown placeholder, or a format.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ConfigError(f"{where} = {pattern!r}: {error}; write {{{{ and }}}} for literal braces") from None
    for _, name, format_spec, conversion in parts:
        if name is not None and name not in known:
            raise ConfigError(f"{where}: unknown placeholder {{{name}}}{suggestion(name, known)}")
        if format_spec or conversion:
            raise ConfigError(f"{where}: {{{name}}} takes no format or conversion; remove it")
    return [name for _, name, _, _ in parts if name is not None]


TRANSLATION = Template(input="{source_language}: {source}\n{target_language}: ")
SUMMARIZATION = Template(input="Summarize the following document in {target_language}:\n{source}\nSummary: ")
