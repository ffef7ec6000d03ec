"""Config mappings become frozen dataclasses, or an error that names the field."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from finetune_scaling import configuration
from finetune_scaling.configuration import build, choose, closest
from finetune_scaling.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["small", "large"] = "small"
    flag: bool = False
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "x")
    limit: int | None = None
    mixed: int | str = 0
    by_name: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    free: Any = None


def test_groups_tuples_unions_and_mappings_are_followed():
    mapping = {
        "count": 3,
        "kind": "large",
        "flag": True,
        "inner": {"rate": 2, "names": ["a", "b"]},
        "several": [{}, {"rate": 1.5}],
        "pair": [4, "y"],
        "limit": 7,
        "mixed": "text",
        "by_name": {"x": {"names": ("c",)}},
        "free": {"a": (1, 2)},
    }
    expected = Outer(
        count=3,
        kind="large",
        flag=True,
        inner=Inner(2.0, ("a", "b")),
        several=(Inner(), Inner(1.5)),
        pair=(4, "y"),
        limit=7,
        mixed="text",
        by_name={"x": Inner(names=("c",))},
        free={"a": [1, 2]},
    )
    assert build(Outer, mapping, "config") == expected
    assert build(Outer, ConfigDict(mapping), "config") == expected
    assert isinstance(build(Outer, mapping, "config").inner.rate, float)


def test_missing_fields_have_their_defaults_and_none_is_none():
    assert build(Outer, {"count": 1}, "config") == Outer(1)
    assert build(Outer, {"count": 1, "limit": None}, "config") == Outer(1)


def test_an_integer_may_be_written_as_a_float():
    assert build(Outer, {"count": 1e6}, "config") == Outer(1_000_000)
    assert isinstance(build(Outer, {"count": 1e6}, "config").count, int)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "config.count is missing; give it a value"),
        ({"count": None}, "config.count is missing"),
        ({"count": 1, "cuont": 2}, "config.cuont is not a field of config; did you mean 'count'?"),
        ({"count": 1, "zzz": 2}, "config.zzz is not a field of config; choose one of count, kind, flag"),
        ({"count": "3"}, "config.count = '3' has the wrong type: expected int, got str"),
        ({"count": 1.5}, "config.count = 1.5 has the wrong type: expected int, got float"),
        ({"count": True}, "config.count = True has the wrong type: expected int, got bool"),
        ({"count": 1, "flag": 1}, "config.flag = 1 has the wrong type: expected bool, got int"),
        ({"count": 1, "kind": "smal"}, "config.kind = 'smal' is unknown; did you mean 'small'?"),
        ({"count": 1, "inner": 3}, "config.inner must be a group of fields, not 3"),
        ({"count": 1, "inner": {"rate": "x"}}, "config.inner.rate = 'x' has the wrong type: expected float, got str"),
        ({"count": 1, "inner": {"rat": 1}}, "config.inner.rat is not a field of config.inner; did you mean 'rate'?"),
        ({"count": 1, "inner": {"names": "ab"}}, "config.inner.names must be a list, not 'ab'"),
        ({"count": 1, "inner": {"names": [1]}}, "config.inner.names[0] = 1 has the wrong type: expected str, got int"),
        ({"count": 1, "several": [{}, {"rate": None}]}, "config.several[1].rate is missing; give it a value"),
        ({"count": 1, "pair": [1]}, "config.pair must have 2 entries, not 1"),
        ({"count": 1, "limit": "x"}, "config.limit = 'x' has the wrong type: expected int, got str"),
        ({"count": 1, "by_name": {"x": {"y": 1}}}, "config.by_name.x.y is not a field of config.by_name.x"),
        ({"count": 1, "by_name": [1]}, "config.by_name must be a group of fields, not [1]"),
    ],
)
def test_the_first_wrong_field_is_named(mapping, message):
    with pytest.raises(ConfigError) as error:
        build(Outer, mapping, "config")
    assert str(error.value).startswith(message)


inners = st.builds(Inner, st.floats(allow_nan=False), st.lists(st.text(max_size=3), max_size=3).map(tuple))
outers = st.builds(
    Outer,
    count=st.integers(),
    kind=st.sampled_from(["small", "large"]),
    flag=st.booleans(),
    inner=inners,
    several=st.lists(inners, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.text(max_size=3)),
    limit=st.none() | st.integers(),
    mixed=st.integers() | st.text(max_size=3),
    by_name=st.dictionaries(st.sampled_from("abc"), inners),
)


@given(outers)
def test_plain_data_and_its_json_build_the_same_config(config):
    assert build(Outer, configuration.plain(config), "config") == config
    assert build(Outer, json.loads(json.dumps(configuration.plain(config))), "config") == config
    assert configuration.equal(config, ConfigDict(configuration.plain(config)))


@given(outers, outers)
def test_only_equal_configs_have_no_differing_fields(left, right):
    assert configuration.differing_fields(left, left) == []
    assert bool(configuration.differing_fields(left, right)) == (not configuration.equal(left, right))


def test_differing_fields_have_dotted_names():
    left = {"a": 1, "b": {"c": 2, "d": [1]}, "e": {}}
    right = {"a": 1, "b": {"c": 3, "d": [1, 2]}, "f": None}
    assert configuration.differing_fields(left, right) == ["b.c", "b.d", "e"]  # f = None is equal to a missing f


def test_canonical_json_does_not_depend_on_order_or_container():
    assert configuration.canonical_json({"b": (1, 2), "a": "ä"}) == '{"a": "ä", "b": [1, 2]}'
    assert configuration.canonical_json(ConfigDict({"a": "ä", "b": [1, 2]})) == '{"a": "ä", "b": [1, 2]}'


def test_references_within_a_config_are_followed():
    config = ConfigDict({"size": 3})
    config.twice = config.get_ref("size") * 2
    assert configuration.plain(config) == {"size": 3, "twice": 6}


def test_unset_fields_are_removed():
    mapping = ConfigDict({"a": None, "b": {"c": None}, "d": {"e": 0, "f": None}, "g": False, "h": [], "i": {}})
    assert configuration.without_unset(mapping) == {"d": {"e": 0}, "g": False, "h": [], "i": {}}


def test_an_unknown_choice_is_an_error_with_a_suggestion():
    table = {"full": 1, "lora": 2}
    assert choose(table, "lora", "method.name") == 2
    with pytest.raises(ConfigError, match=r"^method\.name = 'loar' is unknown; did you mean 'lora'\?$"):
        choose(table, "loar", "method.name")
    with pytest.raises(ConfigError, match=r"^method\.name = 'x' is unknown; choose one of full, lora$"):
        choose(table, "x", "method.name")
    with pytest.raises(ConfigError, match=r"^mode = 'x' is unknown; choose one of '', S$"):
        choose({"": 0, "S": 1}, "x", "mode")


FIELDS = st.recursive(
    st.integers() | st.text(max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
GROUPS = st.dictionaries(st.sampled_from("abc"), FIELDS, max_size=3)


@given(GROUPS, GROUPS)
def test_merging_unites_groups_and_the_later_value_wins(first, second):
    merged = configuration.merge(first, second)
    assert merged.keys() == first.keys() | second.keys()
    for name, value in merged.items():
        values = [group[name] for group in (first, second) if name in group]
        both_groups = len(values) == 2 and all(isinstance(value, dict) for value in values)
        assert value == (configuration.merge(*values) if both_groups else values[-1])


@pytest.mark.parametrize(("name", "known"), [("cosin", "cosine"), ("linera", "linear"), ("xyz", None)])
def test_the_closest_name_is_that_of_the_fewest_changes(name, known):
    assert closest(name, ("constant", "cosine", "linear")) == known
    assert closest(name, ()) is None
