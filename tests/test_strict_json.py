"""Strict JSON: what the standard excludes is an error, and everything that is written can be read by any parser."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.strict_json import JsonError, check_json_lines, format_json, parse_json

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def refuse(text: str) -> None:
    raise ValueError(text)


def without_infinities(value):
    if isinstance(value, dict):
        return {key: without_infinities(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(VALUES)
def test_what_is_written_is_strict_and_read_back(value):
    text = format_json(value)
    assert parse_json(text) == json.loads(text, parse_constant=refuse) == without_infinities(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "^column 24: the key 'c' occurs twice"),
        ('{"a": {"b": 1},\n "b": "a",\n "a": NaN}', "^line 3, column 2: the key 'a' occurs twice"),
        ('{"a": 1, "\\u0061": 2}', "^column 10: the key 'a' occurs twice"),
        ("[NaN]", "^column 2: NaN is not a number"),
        ('{"a": "NaN",\n "b": [1, -Infinity]}', "^line 2, column 11: -Infinity is not a number"),
        ('[1e99, "1e999",\n\n1e999]', "^line 3, column 1: the number 1e999 is out of range"),
        ("9" * 4000, "4000 digits"),
        ('[\n"\\ud83d\\ude42 \\" {", "\\ud800"]', "^line 2, column 22: a text has a lone surrogate"),
        ('\ufeff{"a": 1}', "byte order mark"),
        ("[" * 10**5, "nested too deeply"),
        ('{"a": }', "^column 7: Expecting value"),
        ('{\n "a": }', "^line 2, column 7: Expecting value"),
        ('{"a": 1}{"a": 2}', "another value follows"),
        ('{"a": 1},', "^column 9: other text follows"),
        ("", "column 1: Expecting value"),
    ],
)
def test_what_is_not_strict_is_an_error(text, message):
    with pytest.raises(JsonError, match=message):
        parse_json(text)


def test_pairs_of_surrogates_are_read():
    assert parse_json('{"a": "\\ud83d\\ude42"}') == {"a": "🙂"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"several lines.*`jq -c '\.' a\.jsonl"),
        ('{"a": "1",', r"several lines.*`jq -c '\.'"),
        ('{"a": {', r"several lines.*`jq -c '\.'"),
        ('{"a": 1},', r"a comma after each object.*`sed 's/,\[\[:space:\]\]\*\$//' a\.jsonl"),
        ('{"a": 1} {"a": 2}', r"several objects in a line.*`jq -c '\.'"),
        ("[", r"one JSON array.*`jq -c '\.\[\]'"),
        *(('{"a": 1}'.encode(code).decode(), f"iconv -f {code}") for code in ("UTF-16LE", "UTF-16BE", "UTF-32LE")),
    ],
)
def test_another_layout_or_encoding_is_named_with_its_conversion(line, message):
    with pytest.raises(JsonError, match=message):
        check_json_lines("a.jsonl", line)


@pytest.mark.parametrize("line", ['{"a": 1}', "", "text", "{}", '{"a": "x, ', '{"a": 1} x', '{"a": {}'])
def test_first_lines_of_other_files_are_accepted(line):
    check_json_lines("a.jsonl", line)
