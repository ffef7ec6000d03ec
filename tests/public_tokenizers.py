"""Tokenizers of every kind that public models have, trained on a few lines and saved in Hugging Face's format."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

UNK, BOS, EOS = "<unk>", "<s>", "</s>"  # ids 0, 1, 2
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "Der schnelle Fuchs läuft über die Straße; größer wird er nicht.",
    "Быстрая лиса прыгает через ленивую собаку.",
    "敏捷的狐狸跳过了懒狗。你好，世界！",
    "sili sati luli = bubo gevo zego\nsupi sati niki silik namik satik = gevo",
)
SPACED = (" one space", "  two  spaces", " ", "▁")  # texts that begin with a space, which some kinds drop in decoding
SIZE = 340
# Pre-tokenization of these models: contractions, letters, digits, punctuation, line breaks.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = _QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def byte_level(directory: Path) -> None:
    """Like SmolLM's, with a BOS token."""
    _save(_train_byte_level(), directory)


def without_bos(directory: Path) -> None:
    """Like SmolLM's, without a BOS token."""
    tokenizer = _train_byte_level()
    tokenizer.post_processor = processors.ByteLevel()
    _save(tokenizer, directory)


def llama3(directory: Path) -> None:
    """Like Llama 3's: words split by a pattern, numbers by three digits, and ignore_merges."""
    tokenizer = _train_byte_level(models.BPE(ignore_merges=True), pattern=_LLAMA3_WORDS)
    first = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), first])
    _save(tokenizer, directory)


def qwen(directory: Path) -> None:
    """Like Qwen's: NFC normalization, words split by a pattern, numbers by digits; no BOS token."""
    tokenizer = _train_byte_level(pattern=_QWEN_WORDS, normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    _save(tokenizer, directory)


def gpt_neox(directory: Path) -> None:
    """Like GPT-NeoX's: NFC normalization, and runs of spaces as added tokens; no BOS token."""
    tokenizer = _train_byte_level(normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in (4, 3, 2)])
    _save(tokenizer, directory)


def gemma(directory: Path) -> None:
    """Like Gemma's: SentencePiece pieces without a prefix space, and runs of line breaks as added tokens."""
    tokenizer = _byte_fallback_model()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([UNK, BOS, EOS])
    tokenizer.add_tokens([AddedToken("\n" * length, normalized=False) for length in (2, 3)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    _save(tokenizer, directory)


def byte_fallback(directory: Path, *, metaspace: bool = False) -> None:
    """Like Llama 2's tokenizer.json, or with `metaspace` like newer files; with an added token."""
    tokenizer = _byte_fallback_model()
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([UNK, BOS, EOS])
    tokenizer.add_tokens([AddedToken("<fox>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    _save(tokenizer, directory)


def _byte_fallback_model() -> Tokenizer:
    """Return a BPE model with the pieces and merges of a SentencePiece model."""
    pieces = _train_sentencepiece()
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    scores = {piece: pieces.get_score(i) for piece, i in vocabulary.items()}
    merges = [
        (scores[piece], piece[:cut], piece[cut:])
        for piece, i in vocabulary.items()
        if not (pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i))
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    ranked = [(left, right) for _, left, right in sorted(merges, key=lambda merge: -merge[0])]
    return Tokenizer(models.BPE(vocabulary, ranked, unk_token=UNK, fuse_unk=True, byte_fallback=True))


def metaspace(directory: Path) -> None:
    byte_fallback(directory, metaspace=True)


def sentence_pieces(directory: Path) -> None:
    """Like Llama 1's and 2's: tokenizer.model without tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(_train_sentencepiece().serialized_model_proto())
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": BOS, "eos_token": EOS}
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": {"content": UNK}}))


def reference_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of transformers.

    Its reader of tokenizer.model needs a newer protobuf than other packages allow, so it gets the pieces.
    """
    if (directory / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(directory)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    merges = generate_merges(vocabulary)
    return LlamaTokenizer(vocabulary, merges, add_bos_token=settings["add_bos_token"])


KINDS: dict[str, Callable[[Path], None]] = {
    one.__name__: one
    for one in (
        byte_level, without_bos, llama3, qwen, gpt_neox, gemma, byte_fallback, metaspace, sentence_pieces,
    )
}  # fmt: skip
WITHOUT_BOS = ("without_bos", "qwen", "gpt_neox")  # without a BOS token
ADDS_SPACE = ("byte_fallback", "metaspace", "sentence_pieces")  # a prefix space


def _train_byte_level(
    model: Any = None, *, pattern: str | None = None, normalizer: normalizers.Normalizer | None = None
) -> Tokenizer:
    """Train byte-level BPE within the words of a pattern, by default GPT-2's."""
    tokenizer = Tokenizer(models.BPE() if model is None else model)
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, rest])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[UNK, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return tokenizer


def _train_sentencepiece() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(TEXTS).split("\n")), model_writer=model, model_type="bpe", vocab_size=SIZE,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.98, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _save(tokenizer: Tokenizer, directory: Path) -> None:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS)
    wrapped.save_pretrained(directory)
