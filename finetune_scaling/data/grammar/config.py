"""The parameters of the artificial language family."""

import dataclasses

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
    """Parameters of the language family; equal configs generate equal text on every machine.

    Attributes:
      seed: seed of the words, genders, numbers of synonyms, and of the text.
      lexicon_size: number of meanings, all parts of speech together.
      zipf_exponent: the meaning of rank r in its part of speech has probability proportional to r^-exponent.
      synonyms: maximum number of words of a meaning in a language; uniform from 1 to `synonyms`.
      ambiguity: ratio of the probabilities of successive words of a meaning: 0 always the first, 1 uniform.
      genders: number of genders of nouns; articles and adjectives agree with them.
      adjective_rate: probability that a noun phrase has an adjective.
      adverb_rate: probability that a clause has an adverb.
      reordering_rate: probability of the rarer order, both of verb and noun phrases and of adjective and noun.
      particle_rate: probability of a sentence-final particle without meaning.
      embedding_rate: probability that a clause below the maximum depth embeds another one.
      max_clause_depth: maximum number of clauses in a sentence.
      document_sentences: maximum number of sentences in a document; the minimum is 2 if this is above 1.
      drop_rate: probability that a summary drops an adjective or adverb.
      summary_spread: ratio of the probabilities that a summary reports successive topic sentences; 0: always the first.

    Raises ConfigError, naming the field, if a value is out of range.
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
            if not low <= value <= high:
                raise ConfigError(f"grammar.{name} = {value} is out of range; set a value from {low} to {high}")
