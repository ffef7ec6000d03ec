"""Templates that render the input and target text of an example."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_scaling.configuration import Text, suggestion
from finetune_scaling.data.language_names import language_name
from finetune_scaling.errors import ConfigError

LANGUAGES = ("source_language", "target_language")
_PLACEHOLDERS = ("source", "target", *LANGUAGES)


@dataclass(frozen=True)
class Template:
    """Two patterns with the placeholders {source}, {target}, {source_language} and {target_language}.

    The model reads the input, and is trained and scored on the target. languages: English names by language code, which
    replace or extend the known ones. Raises ConfigError if a placeholder is unknown or missing, the input contains the
    target, or a code in `languages` is not a language code.
    """

    input: Text
    target: Text = "{target}"
    languages: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        for code in self.languages:
            language_name(code, "template.languages", self.languages)
        for name, pattern, needed in (("input", self.input, "source"), ("target", self.target, "target")):
            found = placeholders(pattern, f"template.{name}", _PLACEHOLDERS)
            if needed not in found:
                raise ConfigError(f"template.{name} = {pattern!r} has no {{{needed}}}; add it")
            if name == "input" and "target" in found:
                raise ConfigError("template.input contains {target}, which the model has to predict; remove it")

    def added_texts(self) -> dict[str, str]:
        """Return what the template adds to an example, by field: its patterns and names of languages."""
        names = {f"template.languages[{code!r}]": name for code, name in self.languages.items()}
        return {"template.input": self.input, "template.target": self.target, **names}

    def render(self, example: Mapping[str, Any]) -> tuple[str, str]:
        """Return the input text and the target text of an example."""
        values = self._values(example)
        return self.input.format_map(values), self.target.format_map(values)

    def _values(self, example: Mapping[str, Any]) -> dict[str, str]:
        """Return the texts of an example's placeholders."""
        return {
            "source": example["source"],
            "target": example["target"],
            "source_language": language_name(example["source_language"], "source_language", self.languages),
            "target_language": language_name(example["target_language"], "target_language", self.languages),
        }


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
