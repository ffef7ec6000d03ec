"""Special and added tokens that a Hugging Face directory names in the files next to its tokenizer file.

Which file takes precedence follows transformers 5 (PreTrainedTokenizerBase._from_pretrained): `added_tokens_decoder` of
tokenizer_config.json, or else special_tokens_map.json and added_tokens.json.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, read_json_object

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"

STANDARD_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = frozenset({"single_word", "lstrip", "rstrip", "normalized", "special"})
_EXTRA_FIELDS = ("extra_special_tokens", "additional_special_tokens")
_COPY = "copy it again"


class AddedTokens(NamedTuple):
    """The tokens that the files name.

    recorded: tokens with their ids. named: special tokens by name, such as eos_token. extra: further special tokens.
    """

    recorded: Mapping[int, AddedToken]
    named: Mapping[str, AddedToken]
    extra: tuple[AddedToken, ...]

    @property
    def special(self) -> list[AddedToken]:
        """Every token that the files name as special."""
        return [*self.named.values(), *self.extra]


def read_added_tokens(directory: Location) -> tuple[AddedTokens, Mapping[str, Any]]:
    """Return the tokens that the files of a directory name, and the fields of tokenizer_config.json.

    Raises DataError, naming file and field, for a token that is not one.
    """
    file = directory / TOKENIZER_CONFIG_FILE
    config = _read_object(file)
    settings, sources = dict(config), dict.fromkeys(config, file)
    recorded: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        where = f"{file}: added_tokens_decoder"
        if not isinstance(decoder := config["added_tokens_decoder"], Mapping):
            raise DataError(f"{where}: not a JSON object; {_COPY}")
        for number, value in decoder.items():
            recorded[_token_id(number, where)] = _token(value, f"{where}: {number}", special=False)
    else:
        replacing = _read_object(directory / SPECIAL_TOKENS_FILE)
        settings |= replacing
        sources |= dict.fromkeys(replacing, directory / SPECIAL_TOKENS_FILE)
    named = {
        name: _token(value, f"{sources[name]}: {name}")
        for name, value in settings.items()
        if value is not None
        and (name in STANDARD_TOKENS or (name.endswith("_token") and isinstance(value, str | Mapping)))
    }
    field = next((name for name in _EXTRA_FIELDS if settings.get(name)), None)
    extra, where = (settings[field], f"{sources[field]}: {field}") if field else ([], "")
    if isinstance(extra, Mapping):  # by name, such as image_token
        named |= {name: _token(value, f"{where}: {name}") for name, value in extra.items()}
        extra = []
    if not isinstance(extra, list):
        raise DataError(f"{where} = {extra!r} is not a list; {_COPY}")
    tokens = AddedTokens(recorded, named, tuple(_token(value, where) for value in extra))
    if "added_tokens_decoder" not in config:
        recorded |= _read_added(directory / ADDED_TOKENS_FILE, {token.content for token in tokens.special})
    return tokens, config


def add_to(tokenizer: Tokenizer, tokens: AddedTokens) -> list[str]:
    """Add the tokens to a tokenizer of the tokenizers library, in the order and with the flags of transformers.

    Returns a description of each token that changes the ids of a text or their number.
    """
    before = tokenizer.get_added_tokens_decoder()
    existing = {repr(token) for token in before.values()}
    missing = [token for _, token in sorted(tokens.recorded.items()) if repr(token) not in existing]
    known = {token.content for token in (*before.values(), *missing)}
    tokenizer.add_tokens([*missing, *(token for token in _unique(tokens.special) if token.content not in known)])
    tokenizer.add_special_tokens(tokens.special)
    after = tokenizer.get_added_tokens_decoder()
    changed = {number: token for number, token in after.items() if repr(before.get(number)) != repr(token)}
    return [f"{i} {token!r}" for i, token in changed.items() if not token.special or i not in before]


def _unique(tokens: Iterable[AddedToken]) -> list[AddedToken]:
    return list({token.content: token for token in tokens}.values())


def _read_added(file: Location, special: set[str]) -> dict[int, AddedToken]:
    """Return the tokens of an added_tokens.json by id; those that are not special are part of texts."""
    return {
        _token_id(number, f"{file}: {content}"): AddedToken(
            content, normalized=content not in special, special=content in special
        )
        for content, number in _read_object(file).items()
    }


def _token(value: Any, where: str, *, special: bool = True) -> AddedToken:
    """Return a token that is given as text or as an object with flags."""
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=False)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise DataError(f"{where} = {value!r} is not a token; {_COPY}")
    flags = {name: flag for name, flag in value.items() if name not in ("__type", "content")}
    if not flags.keys() <= _FLAGS or not all(isinstance(flag, bool) for flag in flags.values()):
        raise DataError(f"{where} = {value!r} is not a token (flags: {', '.join(sorted(_FLAGS))}); {_COPY}")
    return AddedToken(value["content"], **{"special": special, **flags})


def _token_id(value: Any, where: str) -> int:
    """Return the id of a token, which is a JSON object's name in one file and a number in the other."""
    if isinstance(value, bool) or not str(value).isdecimal():
        raise DataError(f"{where}: {value!r} is not the id of a token; {_COPY}")
    return int(value)


def _read_object(file: Location) -> dict[str, Any]:
    return read_json_object(file, fix=_COPY) if file.is_file() else {}
