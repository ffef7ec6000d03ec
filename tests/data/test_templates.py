"""Templates: rendered text, and errors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.templates import SUMMARIZATION, TRANSLATION, Template
from finetune_scaling.errors import ConfigError


def example(source="A {house}.", target="Ein {Haus}.", languages=("en", "de")):
    return {"source": source, "target": target, "source_language": languages[0], "target_language": languages[1]}


def test_translation_template():
    assert TRANSLATION.render(example()) == ("English: A {house}.\nGerman: ", "Ein {Haus}.")
    assert TRANSLATION.render(example("ba", "ku", ("A", "B"))) == ("A: ba\nB: ", "ku")


def test_a_line_before_the_article_names_the_language():
    text, target = SUMMARIZATION.render(example("Lang.", "Kurz.", ("de", "de")))
    assert text.splitlines()[:2] == ["Summarize the following document in German:", "Lang."]
    assert target == "Kurz."


@settings(deadline=None)
@given(st.text(), st.text())
def test_texts_are_not_interpreted_as_patterns(source, target):
    template = Template(input="{{x}} {source}|{target_language}", target="<{target}>")
    assert template.render(example(source, target)) == (f"{{x}} {source}|German", f"<{target}>")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"input": "{sauce}"}, r"template\.input: unknown placeholder \{sauce\}; did you mean 'source'"),
        ({"input": "{source}", "target": "{targets}"}, r"template\.target: unknown placeholder \{targets\}"),
        ({"input": "{}"}, r"template\.input: unknown placeholder"),
        ({"input": "{source.upper}"}, "unknown placeholder"),
        ({"input": "{source!r}"}, r"\{source\} takes no format"),
        ({"input": "{source:>9}"}, r"\{source\} takes no format"),
        ({"input": "{source"}, r"template\.input = '\{source': "),
        ({"input": "Translate:"}, r"has no \{source\}; add it"),
        ({"input": "{source}", "target": "x"}, r"template\.target = 'x' has no \{target\}"),
        ({"input": "{source} {target}"}, "template.input contains"),
    ],
)
def test_errors_name_the_field(patterns, message):
    with pytest.raises(ConfigError, match=message):
        Template(**patterns)


def test_unknown_language_is_an_error():
    with pytest.raises(ConfigError, match="target_language = 'qaa' has no known English name"):
        TRANSLATION.render(example(languages=("en", "qaa")))
    with pytest.raises(ConfigError, match=r"template\.languages = 'Old High German' is not a language code"):
        Template("{source}", languages={"Old High German": "x"})


def test_languages_are_named_by_any_code_or_by_the_config():
    named = Template(TRANSLATION.input, languages={"goh_Latn": "Old High German", "de": "New High German"})
    assert named.render(example(languages=("goh_Latn", "de")))[0] == "Old High German: A {house}.\nNew High German: "
    assert TRANSLATION.render(example(languages=("pt-BR", "zho_Hans")))[0].splitlines() == [
        "Portuguese (Brazil): A {house}.",
        "Chinese (Simplified): ",
    ]
