"""Chat templates in the forms that widespread models have, and tokenizers that have them."""

import runpy
from pathlib import Path

from transformers import AutoTokenizer

KINDS = runpy.run_path(str(Path(__file__).with_name("public_tokenizers.py")))["KINDS"]

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nHelp<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% set content = (system if loop.index0 == 0 else '') + message['content'] %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- endif %}
{%- set ns = namespace(system="") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date_string + "\n" + ns.system + "<|eot_id|>" }}
{%- if tools is not none %}{{- tools | tojson(indent=4) }}{%- endif %}
{%- for message in messages %}
    {%- if message['role'] not in ['user', 'assistant'] %}{%- continue %}{%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}
    {%- else %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""
THINKING = CHATML.replace(
    "message['content'] + ",
    "('<think>\n\n</think>\n\n' if message['role'] == 'assistant' and loop.last else '') + message['content'] + ",
).replace(
    "assistant\n' }}", "assistant\n' + ('<think>\n\n</think>\n\n' if enable_thinking is false else '') }}"
)  # fmt: skip
PLAIN = "{% for m in messages %}{{ m.role | upper + ': ' + m.content + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)

# Name -> kind of tokenizer, added special tokens, chat template.
MODELS = {
    "chatml": ("without_bos", ("<|im_start|>", "<|im_end|>"), CHATML),
    "llama2": ("byte_fallback", (), LLAMA2),
    "llama2, metaspace": ("metaspace", (), LLAMA2),
    "gemma": ("gemma", ("<start_of_turn>", "<end_of_turn>"), GEMMA),
    "llama3": ("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), LLAMA3),
    "thinking": ("qwen", ("<|im_start|>", "<|im_end|>"), THINKING),
    "plain": ("byte_level", (), PLAIN),
}


def save_chat_model(name: str, directory: Path, *, in_config: bool = False) -> None:
    """Write the tokenizer of a chat model, with its template in a file of its own or in tokenizer_config.json."""
    kind, tokens, template = MODELS[name]
    KINDS[kind](directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory, save_jinja_files=not in_config)
