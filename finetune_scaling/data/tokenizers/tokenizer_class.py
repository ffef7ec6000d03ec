"""The parts of a tokenizer.json that transformers 5 replaces by those of a tokenizer class.

Some of its classes take only the vocabulary, the merges and the post-processor from the file and set the rest
themselves. Which class it uses follows AutoTokenizer.from_pretrained: `tokenizer_class` and the model's type.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from finetune_scaling.data.tokenizers.added_tokens import TOKENIZER_CONFIG_FILE
from finetune_scaling.data.tokenizers.interface import SPACE_SYMBOL
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location

_UNCHANGED = "TokenizersBackend"  # the class that reads the complete file
_READS_FILE = ("", _UNCHANGED, "PreTrainedTokenizer")
_NEOX = "GPTNeoXTokenizer"
# The class of a model's type, where transformers has one: used without `tokenizer_class`, or instead of it.
_CLASS_OF_MODEL = {
    "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer", "gemma3": "GemmaTokenizer", "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer", "gpt_neox": _NEOX, "mistral": _UNCHANGED, "olmo2": _UNCHANGED, "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}  # fmt: skip
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PARTS = ("normalizer", "pre_tokenizer", "decoder", "model")


def class_parts(
    fields: Mapping[str, Any], config: Mapping[str, Any], model_fields: Mapping[str, Any], directory: Location
) -> dict[str, Any]:
    """Return the parts of a tokenizer.json, whose content is `fields`, that the class replaces by different ones.

    config: the fields of tokenizer_config.json. Raises DataError for a class whose parts are unknown.
    """
    name = _class_name(fields, config, model_fields)
    if name in _READS_FILE or (name not in _CLASSES and "auto_map" in config):  # no code of a model is run
        return {}
    if name not in _CLASSES or "merges" not in fields["model"]:
        problem = "is not a known class" if name not in _CLASSES else "needs a BPE model, which the file lacks"
        raise DataError(
            f"{directory / TOKENIZER_CONFIG_FILE}: tokenizer_class = {name!r} {problem}; write the tokenizer again "
            "with transformers, AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW), and set tokenizer_class to "
            "PreTrainedTokenizerFast"
        )
    own = _content(_CLASSES[name](config))
    file = _content(Tokenizer.from_str(json.dumps(_without_tokens(fields))))
    changed = {part: own[part] for part in _PARTS if own[part] != file[part]}
    if "model" in changed:
        changed["model"] |= {part: fields["model"][part] for part in ("vocab", "merges")}
    if name == _NEOX and fields.get("post_processor") is not None:
        changed["post_processor"] = None  # this class sets it, too, to one without bos
    if "added_tokens_decoder" in config:  # instead of the file's tokens
        kept = [token for token in fields["added_tokens"] if str(token["id"]) in config["added_tokens_decoder"]]
        changed |= {"added_tokens": kept} if kept != fields["added_tokens"] else {}
    return changed


def _class_name(fields: Mapping[str, Any], config: Mapping[str, Any], model_fields: Mapping[str, Any]) -> str:
    model_type = model_fields.get("model_type")
    given = str(config.get("tokenizer_class") or model_fields.get("tokenizer_class") or "").removesuffix("Fast")
    of_model = _CLASS_OF_MODEL.get(str(model_type), "")
    if not given or of_model == _UNCHANGED or model_type == "qwen2":
        return of_model
    return _UNCHANGED if given == "LlamaTokenizer" and '"ByteLevel"' in json.dumps(fields) else given


def _without_tokens(fields: Mapping[str, Any]) -> dict[str, Any]:
    model = {"type": "BPE", **fields["model"], "vocab": {}, "merges": []}
    return {**fields, "model": model, "added_tokens": [], "post_processor": None}


def _content(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of a tokenizer's file, apart from offsets, which the post-processor decides."""
    return json.loads(
        tokenizer.to_str(), object_hook=lambda o: {**o, "trim_offsets": True} if "trim_offsets" in o else o
    )


def _byte_level(
    config: Mapping[str, Any], normalizer: normalizers.Normalizer | None = None, pattern: str | None = None
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    bytes_of_words = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(config.get("add_prefix_space")), use_regex=pattern is None
    )
    if pattern is None:
        tokenizer.pre_tokenizer = bytes_of_words
    else:
        words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of_words])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gemma(config: Mapping[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, byte_fallback=True, unk_token=_text(config, "unk_token", "<unk>")))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE_SYMBOL)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence(_pieces_to_text())
    return tokenizer


def _llama(config: Mapping[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, byte_fallback=True))
    adds_space = config.get("add_prefix_space") in (None, True)
    scheme = "never" if not adds_space else "always" if config.get("legacy") else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE_SYMBOL, prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(content=" ", left=1)] if adds_space else []
    tokenizer.decoder = decoders.Sequence([*_pieces_to_text(), *strip])
    return tokenizer


def _pieces_to_text() -> list[decoders.Decoder]:
    return [decoders.Replace(SPACE_SYMBOL, " "), decoders.ByteFallback(), decoders.Fuse()]


def _text(config: Mapping[str, Any], name: str, default: str) -> str:
    token = config.get(name, default)
    return str(token["content"] if isinstance(token, Mapping) else token)


_CLASSES: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "GPT2Tokenizer": _byte_level,
    _NEOX: lambda config: _byte_level(config, normalizers.NFC()),
    "Qwen2Tokenizer": lambda config: _byte_level(config, normalizers.NFC(), _QWEN_WORDS),
    "GemmaTokenizer": _gemma,
    "LlamaTokenizer": _llama,
}
