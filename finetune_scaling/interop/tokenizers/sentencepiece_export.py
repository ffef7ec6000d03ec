"""Export of SentencePiece tokenizers as a tokenizer.json of the `tokenizers` library with the same ids.

Our tokenizers do not normalize texts, and no text is parsed as a special token or as the name of a byte. In the library
these are pieces like others, so "<" is replaced by MARK in texts and ordinary pieces, which no special piece contains.
Pieces contain spaces instead of U+2581, so that U+2581 in a text is an ordinary character.

Known differences: MARK, a noncharacter, is decoded to "<". Where two segmentations have the same unigram score (the
same pieces in another order, as in a run of one letter), rounding decides. Without byte fallback, U+2581 is one unknown
token there and three here. Ids of bytes that form no character decode to another number of U+FFFD.
"""

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.errors import DataError

MARK = "\U0010ffff"
_SPACE_SYMBOL, _BYTE_OF_LESS = "\u2581", "<0x3C>"
_UNUSUAL_TEXTS = (
    "<s>a</s><pad>", "<0x41>", "<unk><X>", "   ", "\n\n ", "\t\r", "a\0b", "< <", "e\u0301", "🙂👍🏽", "\ufeff", "你好",
)  # fmt: skip


def fast_tokenizer(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    """Return the tokenizer as one of the library, whose special token before a text is ours.

    Raises:
        DataError: It gives other ids than ours for texts made of the tokenizer's pieces.
    """
    pieces = _Pieces(tokenizer)
    fast = tokenizers.Tokenizer(_model(pieces))
    fast.normalizer = normalizers.Replace("<", MARK)
    fast.decoder = decoders.Sequence([decoders.Replace(MARK, "<"), decoders.ByteFallback(), decoders.Fuse()])
    fast.encode_special_tokens = True  # no text is parsed as one
    fast.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces.special])
    bos = pieces.names[tokenizer.bos_id]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
    )
    _check_same(tokenizer, fast, list(pieces.ordinary.values()))
    return fast


class _Pieces:
    """The pieces of a SentencePiece model: names and scores by id, special pieces, and the texts of ordinary pieces."""

    def __init__(self, tokenizer: SentencePieceTokenizer):
        model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
        ids = range(model.vocab_size())
        self.unk_id = model.unk_id()
        self.scores = [model.get_score(i) for i in ids]
        pieces = [model.id_to_piece(i) for i in ids]
        self.special = [pieces[i] for i in ids if model.is_control(i) or model.is_unknown(i)]
        self.has_bytes = any(model.is_byte(i) for i in ids)
        self.ordinary = {
            i: pieces[i].replace(_SPACE_SYMBOL, " ")
            for i in ids
            if pieces[i] not in self.special and not model.is_byte(i)
        }
        marked = {i: text.replace("<", MARK) for i, text in self.ordinary.items()}
        self.names = [marked.get(i, pieces[i]) for i in ids]
        if self.has_bytes and MARK not in marked.values():
            self.names[pieces.index(_BYTE_OF_LESS)] = MARK  # this byte encodes no other character

    @property
    def are_ranks(self) -> bool:
        """Whether the scores are ranks of BPE merges (0, -1, -2, ...) rather than unigram log-probabilities."""
        return all(score == int(score) for score in (self.scores[i] for i in self.ordinary))


def _model(pieces: _Pieces) -> models.Model:
    """Build a unigram model; of ranks, a BPE model with all pairs of pieces that form a piece, by the result's rank."""
    if not pieces.are_ranks:
        vocabulary = list(zip(pieces.names, pieces.scores, strict=True))
        return models.Unigram(vocabulary, unk_id=pieces.unk_id, byte_fallback=pieces.has_bytes)
    known = {pieces.names[i]: i for i in pieces.ordinary}
    merges = [
        (word[:cut], word[cut:])
        for word in sorted(known, key=lambda word: -pieces.scores[known[word]])
        for cut in range(1, len(word))
        if word[:cut] in known and word[cut:] in known
    ]
    names = {name: i for i, name in enumerate(pieces.names)}
    unknown = pieces.names[pieces.unk_id]
    return models.BPE(names, merges, unk_token=unknown, fuse_unk=True, byte_fallback=pieces.has_bytes)


def _check_same(tokenizer: SentencePieceTokenizer, fast: tokenizers.Tokenizer, pieces: list[str]) -> None:
    joined = ["".join(pieces[i :: len(pieces) // 50 + 1]) for i in range(len(pieces) // 50 + 1)]
    texts = [*pieces, *joined, *_UNUSUAL_TEXTS]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if fast.encode(text, add_special_tokens=False).ids != ids:
            raise DataError(f"the tokenizer has no exact tokenizer.json: {text[:80]!r} has other ids there")
