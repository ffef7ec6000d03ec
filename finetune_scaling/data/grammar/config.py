"""The dials of the artificial language family: one frozen dataclass, checked when it is made, and a harder setting."""

import dataclasses
import math

from finetune_scaling.errors import ConfigError

_RANGES: dict[str, tuple[float, float]] = {
    "lexicon_size": (24, 100_000),
    "zipf_exponent": (0.0, 2.0),
    "synonyms": (1, 3),
    "ambiguity": (0.0, 1.0),
    "genders": (1, 3),
    "adjective_rate": (0.0, 1.0),
    "adverb_rate": (0.0, 1.0),
    "reordering_rate": (0.0, 0.5),
    "particle_rate": (0.0, 0.5),
    "embedding_rate": (0.0, 0.9),
    "max_clause_depth": (1, 5),
    "document_sentences": (1, 6),
    "drop_rate": (0.0, 0.9),
    "summary_spread": (0.0, 0.9),
}


@dataclasses.dataclass(frozen=True)
class GrammarConfig:
    """Difficulty of the language family; equal configs make equal text on every machine.

    Attributes:
      seed: makes another family: other words, genders and numbers of synonyms, other text.
      lexicon_size: meanings, of all parts of speech together.
      zipf_exponent: the meaning of rank r in its part of speech has probability proportional to r^-exponent.
      synonyms: most words that one meaning has in a language; a meaning has 1 to `synonyms` of them.
      ambiguity: the probabilities of a meaning's words fall by this ratio: 0 always takes the first, 1 any.
      genders: genders of nouns; articles and adjectives agree with them.
      adjective_rate: probability that a noun phrase has an adjective.
      adverb_rate: probability that a clause has an adverb.
      reordering_rate: probability of the rarer order, of verb and noun phrases and of adjective and noun alike.
      particle_rate: probability of a sentence-final particle that means nothing.
      embedding_rate: probability that a clause that may take another clause as its complement does.
      max_clause_depth: most clauses in a sentence.
      document_sentences: most sentences in a document; it has 2 at least where this is above 1.
      drop_rate: probability that a summary drops an adjective or adverb.
      summary_spread: the probability that a summary tells a topic sentence falls by this ratio from one to the next;
        0 always tells the first.

    Raises ConfigError, naming the field, where a value is out of its range.
    """

    seed: int = 0
    lexicon_size: int = 40
    zipf_exponent: float = 1.2
    synonyms: int = 2
    ambiguity: float = 0.25
    genders: int = 2
    adjective_rate: float = 0.2
    adverb_rate: float = 0.2
    reordering_rate: float = 0.1
    particle_rate: float = 0.15
    embedding_rate: float = 0.1
    max_clause_depth: int = 2
    document_sentences: int = 3
    drop_rate: float = 0.5
    summary_spread: float = 0.3

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"grammar.{name} = {value} is out of range; choose from {low} to {high}")
        for name in ("seed", "lexicon_size", "synonyms", "genders", "max_clause_depth", "document_sentences"):
            if not isinstance(getattr(self, name), int):
                raise ConfigError(f"grammar.{name} = {getattr(self, name)!r} is not a whole number; give it one")
        if self.reordering_rate == self.particle_rate == 0:
            raise ConfigError(
                "grammar.reordering_rate and grammar.particle_rate are both 0, so that some targets have no entropy; "
                "set one of them above 0"
            )


HARD = GrammarConfig(
    lexicon_size=600,
    zipf_exponent=1.0,
    synonyms=3,
    ambiguity=0.5,
    genders=3,
    adjective_rate=0.45,
    adverb_rate=0.4,
    reordering_rate=0.25,
    particle_rate=0.3,
    embedding_rate=0.3,
    max_clause_depth=3,
    document_sentences=5,
)
