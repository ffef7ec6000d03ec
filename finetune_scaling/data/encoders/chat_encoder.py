"""Encoding of examples as conversations in the format of the model's chat template.

The ids are those of apply_chat_template of transformers: of the prompt with add_generation_prompt, of the target as the
part of the complete conversation after it, up to the token that ends the assistant's message. What a template writes
after that token is left out: nothing that is scored or generated depends on it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune_scaling.data.chat_template import ChatTemplate
from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.special_tokens import check_patterns
from finetune_scaling.data.tokenizers.chat_format import ChatFormat, writes_date
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_USER_MARKER, _ASSISTANT_MARKER, _SYSTEM_MARKER = "question4711", "answer4711", "system4711"
_WITHOUT_CHAT = "use a text template: task.template.input"


class MessageEnd(NamedTuple):
    """What a chat template writes after the assistant's text: all of it, the part before the end token, the token."""

    text: str
    before: str
    token: str
    token_id: int


class ChatEncoder(ExampleEncoder):
    """Encodes the messages of examples."""

    effect_of_special_tokens = "encoded as these tokens where the model has them, as apply_chat_template does"

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate):
        """Raise ConfigError if the tokenizer has no chat template, or one that the messages do not suit."""
        if tokenizer.chat_format is None:
            raise ConfigError(
                "task.template = 'chat', but the model's tokenizer has no chat template (chat_template.jinja, or "
                f"chat_template in tokenizer_config.json). Fix: {_WITHOUT_CHAT}, or take a model that has one"
            )
        check_patterns(tokenizer, template.added_texts(), in_chat=True)
        self.tokenizer, self._template = tokenizer, template
        self._format: ChatFormat = tokenizer.chat_format
        self.beginning, self._ending = self._assistant_message()
        # The template itself writes the token that begins a text.
        ends = tokenizer.special_tokens.end_ids
        self.special_tokens = tokenizer.special_tokens._replace(
            bos_id=None, eos_id=self._ending.token_id, other_end_ids=ends
        )
        self.identity = f"chat template {self._format.digest[:12]}"

    def inputs(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        return self.tokenizer.encode_with_special_tokens([self._prompt(example) for example in examples])

    def targets(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        prompts = [self._prompt(example) for example in examples]
        texts = [text + self._ending.token for text in self.target_texts(examples)]
        together = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        encode = self.tokenizer.encode_with_special_tokens
        return [
            (ids[len(prompt) :] if ids[: len(prompt)] == prompt else self._continuation(text))[:-1]
            for prompt, ids, text in zip(encode(prompts), encode(together), texts, strict=True)
        ]

    def target_texts(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        return [self._target_text(example) for example in examples]

    def _prompt(self, example: Mapping[str, Any]) -> str:
        return self._render(self._template.messages(example), add_generation_prompt=True)

    def _target_text(self, example: Mapping[str, Any]) -> str:
        """Return what the assistant's message adds to the prompt, up to the end token."""
        answer = {"role": "assistant", "content": self._template.render(example)[1]}
        text = self._render([*self._template.messages(example), answer], add_generation_prompt=False)
        prompt, end = self._prompt(example), self._ending.text
        if not (text.startswith(prompt) and text.endswith(end)):
            raise DataError(
                f"{self._format.where}: the conversation of the example with source {example['source'][:60]!r} "
                "does not begin with its prompt or end as others do; remove the example, or use a text template: "
                "task.template.input"
            )
        return text[len(prompt) : len(text) - len(end)] + self._ending.before

    def _continuation(self, text: str) -> list[int]:
        """Return the ids of a target that cannot be cut off from those of the conversation."""
        return self.tokenizer.continuation.encode_with_special_tokens([text])[0]

    def _render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        return self._format.render(messages, self._template.variables, add_generation_prompt=add_generation_prompt)

    def _assistant_message(self) -> tuple[str, MessageEnd]:
        """Return what the template writes before and after the assistant's text.

        Raises ConfigError if the prompt is not the beginning of the conversation, a message is missing in it, or the
        assistant's text is not alone in its message.
        """
        system = [{"role": "system", "content": _SYSTEM_MARKER}] if self._template.system else []
        messages = [*system, {"role": "user", "content": _USER_MARKER}]
        prompt = self._render(messages, add_generation_prompt=True)
        text = self._render(
            [*messages, {"role": "assistant", "content": _ASSISTANT_MARKER}], add_generation_prompt=False
        )
        where = self._format.where
        if missing := [message["role"] for message in messages if message["content"] not in prompt]:
            raise ConfigError(
                f"{where}: the chat template leaves out the message of the {missing[0]}. Fix: {_WITHOUT_CHAT}"
            )
        added = text.removeprefix(prompt)
        if added == text or _ASSISTANT_MARKER not in added:
            raise ConfigError(
                f"{where}: the chat template does not write the assistant's message after the prompt that "
                f"add_generation_prompt writes. Fix: {_WITHOUT_CHAT}"
            )
        before, _, after = added.partition(_ASSISTANT_MARKER)
        if before.strip():
            raise ConfigError(
                f"{where}: the chat template begins the assistant's message with {before!r}, which would be a part of "
                "every target. Fix: set its variables, such as task.template.variables = {'enable_thinking': False}"
            )
        if writes_date(self._format.template):
            log.warning(
                "%s: the chat template can write the current date, so that prompts may differ from day to day; set the "
                "variable that it reads in task.template.variables, such as {'date_string': '26 Jul 2024'}",
                where,
            )
        return before, self._ending_of(after)

    def _ending_of(self, text: str) -> MessageEnd:
        """Find the first special token after the assistant's text; without any text there, use the tokenizer's eos."""
        tokens = self.tokenizer.special_token_ids
        starts = {text.find(token): token for token in sorted(tokens, key=len) if token in text}
        if starts:
            start = min(starts)
            ending = MessageEnd(text, text[:start], starts[start], tokens[starts[start]])
        else:
            eos_id = self.tokenizer.eos_id
            eos = next((token for token, token_id in tokens.items() if token_id == eos_id), "")
            ending = MessageEnd(text, "", eos, eos_id)
        if ending.before.strip() or not ending.token or (not starts and text.strip()):
            raise ConfigError(
                f"{self._format.where}: the chat template ends the assistant's message with {text!r}, which has no "
                f"special token of the tokenizer. Fix: {_WITHOUT_CHAT}"
            )
        return ending
