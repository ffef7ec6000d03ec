"""Choice of the encoder that a template needs."""

from finetune_scaling.data.chat_template import ChatTemplate
from finetune_scaling.data.encoders.chat_encoder import ChatEncoder
from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.text_encoder import TextEncoder
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer


def make_encoder(tokenizer: Tokenizer, template: Template) -> ExampleEncoder:
    """Return the encoder of a tokenizer and a template.

    Raises ConfigError if the template contains special tokens, or is the chat template of a model that has none.
    """
    if isinstance(template, ChatTemplate):
        return ChatEncoder(tokenizer, template)
    return TextEncoder(tokenizer, template)
