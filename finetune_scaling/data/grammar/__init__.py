"""A family of artificial languages, A, B and C, whose conditional entropies are known exactly."""

from finetune_scaling.data.grammar.config import HARD, GrammarConfig
from finetune_scaling.data.grammar.documents import summaries, summary_entropy
from finetune_scaling.data.grammar.sources import monolingual_source, summarization_source, translation_source
from finetune_scaling.data.grammar.translation import translation_entropy, translation_nll, translations

__all__ = [
    "HARD",
    "GrammarConfig",
    "monolingual_source",
    "summaries",
    "summarization_source",
    "summary_entropy",
    "translation_entropy",
    "translation_nll",
    "translation_source",
    "translations",
]
