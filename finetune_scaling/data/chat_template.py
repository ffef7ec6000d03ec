"""The template that writes examples as a conversation, in the format of the model's own chat template."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finetune_scaling.configuration import Text
from finetune_scaling.data.templates import LANGUAGES, Template, placeholders
from finetune_scaling.errors import ConfigError

Message = dict[str, str]  # role and content, as in transformers
RESERVED_VARIABLES = {"messages", "tools", "documents", "add_generation_prompt"}  # which ChatFormat.render sets
Turn = tuple[str, str]  # messages of the user and of the assistant


@dataclasses.dataclass(frozen=True)
class ChatTemplate(Template):
    """The messages of an example; the chat template of the model's tokenizer determines how they are written.

    Attributes:
        input: The user's message, a pattern as in Template.
        target: The assistant's message.
        system: A system message in front of them, a pattern with the placeholders of languages; "" for none.
        variables: Further variables of the model's chat template, such as {"enable_thinking": False}.
    """

    input: Text = "{source}"
    target: Text = "{target}"
    system: Text = ""
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: Literal["chat"] = "chat"

    def __post_init__(self) -> None:
        super().__post_init__()
        placeholders(self.system, "template.system", LANGUAGES)
        if reserved := sorted(RESERVED_VARIABLES & set(self.variables)):
            raise ConfigError(
                f"template.variables has {reserved[0]!r}, which would have no effect, as it is set for every "
                "conversation. Fix: remove it"
            )

    def added_texts(self) -> dict[str, str]:
        """Return what the template adds to an example, by field."""
        return {**super().added_texts(), "template.system": self.system}

    def messages(self, example: Mapping[str, Any]) -> list[Message]:
        """Return the messages in front of the assistant's."""
        system = [{"role": "system", "content": self.system.format_map(self._values(example))}] if self.system else []
        earlier = [message for turn in self._earlier_turns(example) for message in conversation(turn)]
        return [*system, *earlier, {"role": "user", "content": self.render(example)[0]}]

    def _earlier_turns(self, example: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the turns in front of an example's own."""
        return ()


def conversation(turn: Turn) -> list[Message]:
    """Return a turn as messages."""
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turn, strict=True)]
