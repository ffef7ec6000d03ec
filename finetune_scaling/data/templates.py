"""Templates: from an example to the text of its input and of its target, with languages written by name."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError

# English names by ISO code; the artificial languages of data/grammar are called what they are called.
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

    The model reads the input and is trained and scored on the target. Raises ConfigError on an unknown placeholder, on
    an input that shows the target, and on a pattern without its text.
    """

    input: str
    target: str = "{target}"

    def __post_init__(self) -> None:
        for field in fields(self):
            check_pattern(getattr(self, field.name), f"template.{field.name}", _PLACEHOLDERS)
        if "target" in placeholders(self.input):
            raise ConfigError("template.input holds {target}: the model would read what it has to predict; remove it")
        for name, pattern, needed in (("input", self.input, "source"), ("target", self.target, "target")):
            if needed not in placeholders(pattern):
                raise ConfigError(f"template.{name} = {pattern!r} has no {{{needed}}}; add it")

    def render(self, example: Mapping[str, Any]) -> tuple[str, str]:
        """(input text, target text) of an example with source, target, source_language and target_language."""
        values = {
            "source": example["source"],
            "target": example["target"],
            "source_language": language_name(example["source_language"], "source_language"),
            "target_language": language_name(example["target_language"], "target_language"),
        }
        return self.input.format_map(values), self.target.format_map(values)


def language_name(code: str, where: str) -> str:
    """The English name of a language code; ConfigError that names the field `where` if the code is unknown."""
    if code not in LANGUAGE_NAMES:
        near = suggestion(code, LANGUAGE_NAMES)
        mend = near if "did you mean" in near else ""
        raise ConfigError(f"{where} = {code!r} is no language code that templates.py names, such as 'de'{mend}")
    return LANGUAGE_NAMES[code]


def placeholders(pattern: str) -> list[str]:
    """The names in braces of a pattern, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]


def check_pattern(pattern: str, where: str, known: Sequence[str]) -> None:
    """Raises ConfigError, naming the field `where`, on stray braces, a placeholder that is not known, or a format."""
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ConfigError(f"{where} = {pattern!r}: {error}; write {{{{ and }}}} for braces of the text") from None
    for _, name, form, conversion in parts:
        if name is not None and name not in known:
            raise ConfigError(f"{where}: unknown placeholder {{{name}}}{suggestion(name, known)}")
        if form or conversion:
            raise ConfigError(f"{where}: {{{name}}} takes no format; write the name alone")


TRANSLATION = Template(input="{source_language}: {source}\n{target_language}: ")
SUMMARIZATION = Template(input="Summarize the following document in {target_language}:\n{source}\nSummary: ")
