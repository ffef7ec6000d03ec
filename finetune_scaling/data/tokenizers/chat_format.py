"""The chat template of a public model: how its tokenizer writes a conversation, with the results of transformers.

Templates are untrusted code from the hub, so they run in Jinja's sandbox and see texts, lists and dicts only.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.files import Location, read_text_file

CHAT_TEMPLATE_FILE = "chat_template.jinja"
ADDITIONAL_TEMPLATES = "additional_chat_templates/*.jinja"  # which transformers selects by name

_Template = TypeVar("_Template", str, Location)  # its text or its file


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A chat template.

    Attributes:
        template: The Jinja template.
        where: Its file, for messages.
        special_tokens: The texts of the special tokens that it may write, by name.
    """

    template: str
    where: str
    special_tokens: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of the template and its special tokens."""
        return hashlib.sha256(json.dumps([self.template, dict(self.special_tokens)]).encode()).hexdigest()

    def render(
        self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> str:
        """Return the text of a conversation, as apply_chat_template of transformers does.

        Raises ConfigError if the template is not valid or rejects the messages.
        """
        try:
            return _compile(self.template).render(
                {
                    **self.special_tokens,
                    **variables,
                    "messages": [dict(message) for message in messages],
                    "tools": None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except Exception as error:  # a template may raise anything
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(
                f"{self.where}: the chat template rejects messages of {roles} ({error}). Fix: leave out what it names, "
                "such as task.template.system, or use a text template: task.template.input"
            ) from error


def read_chat_format(
    directory: Location, config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> ChatFormat | None:
    """Return the default chat template of a tokenizer's directory, None if it has no template.

    config: the fields of tokenizer_config.json. special_tokens: as in ChatFormat. Raises DataError if the field holds
    no template, or there are several and none of them is the default.
    """
    if files := _template_files(directory):  # have priority in transformers, too
        file = _default(files, str(directory))
        return ChatFormat(read_text_file(file, fix="copy the model's own"), str(file), special_tokens)
    field, where = config.get("chat_template"), f"{directory / 'tokenizer_config.json'}: chat_template"
    if field is None:
        return None
    template = field if isinstance(field, str) else _default(_templates_by_name(field, where), where)
    return ChatFormat(template, where, special_tokens)


def _template_files(directory: Location) -> dict[str, Location]:
    """Return the files of chat templates by name, the last one of a name as in transformers."""
    default = directory / CHAT_TEMPLATE_FILE
    files = {"default": default} if default.is_file() else {}
    return files | {file.stem: file for file in directory.glob(ADDITIONAL_TEMPLATES)}


def _default(by_name: Mapping[str, _Template], where: str) -> _Template:
    if "default" not in by_name:
        raise DataError(f"{where} has the chat templates {', '.join(by_name)}; name one of them 'default'")
    return by_name["default"]


def _templates_by_name(field: Any, where: str) -> dict[str, str]:
    """Return several templates by name, which are an object or a list of objects with `name` and `template`."""
    if isinstance(field, list) and all(isinstance(entry, Mapping) for entry in field):
        field = {str(entry.get("name")): entry.get("template") for entry in field}
    if isinstance(field, Mapping) and all(isinstance(text, str) for text in field.values()):
        return dict(field)
    raise DataError(f"{where} is neither a template nor several of them by name; copy the file from the model again")


def writes_date(template: str) -> bool:
    """Return whether a chat template may write the current date."""
    return "strftime_now" in template


class _Generation(Extension):
    """The tag {% generation %}, which marks the assistant's tokens and writes its content."""

    tags = {"generation"}  # noqa: RUF012 - as in the base class

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> str:
        return caller()


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(template)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
