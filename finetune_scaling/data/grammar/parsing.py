"""Parsing of a sentence: its meaning and every choice of its realization.

The meaning and choices are read off the words, then realized again: errors of order or agreement appear as a
difference, so they need no separate rules.
"""

from finetune_scaling.data.grammar.choices import Replay
from finetune_scaling.data.grammar.lexicon import VERBS, Analysis, Language
from finetune_scaling.data.grammar.syntax import Clause, NounPhrase, Sentence, realize
from finetune_scaling.errors import DataError


def parse(text: str, language: Language) -> tuple[Sentence, float]:
    """Return the meaning of `text` and -log p(text | meaning) in nats.

    Raises DataError if `text` is not a sentence of `language`.
    """
    words = text.split(" ")
    particle = words[-1] == language.particle
    clauses, choices = [], []
    for segment in _split(words[: len(words) - particle], language.complementizer):
        clause, chosen = _parse_clause([_analyse(word, text, language) for word in segment], text, language)
        clauses.append(clause)
        choices += chosen
    replay = Replay([*choices, int(particle)])
    if realize(clauses, language, replay) != text:
        raise _ungrammatical(text, language, "the order or agreement of its words is wrong")
    return tuple(clauses), replay.nll


def _split(words: list[str], separator: str) -> list[list[str]]:
    segments: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            segments.append([])
        else:
            segments[-1].append(word)
    return segments


def _analyse(word: str, text: str, language: Language) -> Analysis:
    if word not in language.analyses:
        raise _ungrammatical(text, language, f"{word!r} is not one of its words")
    return language.analyses[word]


def _parse_clause(words: list[Analysis], text: str, language: Language) -> tuple[Clause, list[int]]:
    verbs = [i for i, word in enumerate(words) if word.part in VERBS]
    adverbs = [word for word in words if word.part == "adverb"]
    nominal = [word for word in words if word.part in ("article", "noun", "adjective")]
    phrases = _split_phrases(nominal, language.typology.article_last)
    if len(verbs) != 1 or len(adverbs) > 1 or len(phrases) not in (1, 2):
        raise _ungrammatical(text, language, "a clause has one verb, one or two noun phrases and at most one adverb")
    verb = words[verbs[0]]
    verb_follows_noun = any(word.part == "noun" for word in words[: verbs[0]])
    order = int(verb_follows_noun != (language.typology.verb_positions[0] > 0))
    parsed = [_parse_noun_phrase(phrase, text, language) for phrase in phrases]
    phrase_choices = [choice for _, choices in parsed for choice in choices]
    choices = [order, verb.word, *phrase_choices, *(word.word for word in adverbs)]
    clause = Clause(
        verb=verb.meaning,
        past=verb.ending >= 2,
        adverb=adverbs[0].meaning if adverbs else None,
        subject=parsed[0][0],
        object=parsed[1][0] if len(parsed) == 2 else None,
    )
    return clause, choices


def _split_phrases(words: list[Analysis], article_last: bool) -> list[list[Analysis]]:
    phrases: list[list[Analysis]] = [[]]
    for word in words:
        if word.part == "article" and not article_last and phrases[-1]:
            phrases.append([])
        phrases[-1].append(word)
        if word.part == "article" and article_last:
            phrases.append([])
    return [phrase for phrase in phrases if phrase]


def _parse_noun_phrase(words: list[Analysis], text: str, language: Language) -> tuple[NounPhrase, list[int]]:
    found = {word.part: word for word in words}
    if len(found) != len(words) or not {"article", "noun"} <= found.keys():
        raise _ungrammatical(text, language, "a noun phrase has one article, one noun and at most one adjective")
    noun, adjective = found["noun"], found.get("adjective")
    choices = [noun.word]
    if adjective is not None:
        last = words.index(adjective) > words.index(noun)
        choices += [adjective.word, int(last != language.typology.adjective_last)]
    meaning = adjective.meaning if adjective else None
    return NounPhrase(noun.meaning, meaning, bool(noun.ending), bool(found["article"].meaning)), choices


def _ungrammatical(text: str, language: Language, reason: str) -> DataError:
    return DataError(f"{text!r} is not a sentence of language {language.name}: {reason}; give the text of a record")
