"""Tokenizers of the kinds that Llama models have, trained on a few lines and saved as Hugging Face saves them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
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
SIZE = 340


def byte_level(directory: Path, *, front: bool = True) -> None:
    """As Llama 3 has it; without `front` as SmolLM does, whose texts begin without a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[UNK, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if front:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    else:
        tokenizer.post_processor = processors.ByteLevel()
    _save(tokenizer, directory)


def without_front(directory: Path) -> None:
    byte_level(directory, front=False)


def byte_fallback(directory: Path, *, metaspace: bool = False) -> None:
    """As the tokenizer.json of Llama 2, or as newer files write the same; with a token that was added later."""
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
    tokenizer = Tokenizer(models.BPE(vocabulary, ranked, unk_token=UNK, fuse_unk=True, byte_fallback=True))
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


def metaspace(directory: Path) -> None:
    byte_fallback(directory, metaspace=True)


def sentence_pieces(directory: Path) -> None:
    """As Llama 1 and 2 have it: tokenizer.model, and no tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(_train_sentencepiece().serialized_model_proto())
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": BOS, "eos_token": EOS}
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": {"content": UNK}}))


def theirs(directory: Path) -> Any:
    """The tokenizer as transformers has it.

    Of a tokenizer.model its own reader asks for a newer protobuf than other packages allow, so it is given the pieces.
    """
    if (directory / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(directory)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    merges = generate_merges(vocabulary)
    return LlamaTokenizer(vocabulary, merges, add_bos_token=settings["add_bos_token"])


KINDS: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (byte_level, without_front, byte_fallback, metaspace, sentence_pieces)
}


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
