"""The grid: every setting once, the factors that share it, and what is held out."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune_scaling.configuration import merge
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.studies import grid
from finetune_scaling.studies.grid import FACTORS, Setting, StudyConfig, read_study
from finetune_scaling.tuning.registry import METHODS


def study(sizes=("30k", "100k"), factor_size="30k", tokens=(10, 20), seeds=(0,), methods=None, **family: Any) -> dict:
    return {
        "name": "s",
        "seeds": seeds,
        "families": {
            "f": {
                "tokenizer": "path",
                "pretrain": {},
                "sizes": sizes,
                "tokens": tokens,
                "factor_size": factor_size,
                **family,
            }
        },
        "tasks": {
            "t": {
                "family": "f",
                "task": {},
                "finetune": {},
                "methods": {"full": {"finetune_examples": (1, 2)}} if methods is None else methods,
            }
        },
    }


SUBSETS = st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def studies(draw) -> StudyConfig:
    sizes = tuple(draw(st.lists(st.sampled_from(list(LADDER)[:5]), min_size=1, max_size=3, unique=True)))
    tokens = tuple(sorted(draw(SUBSETS)))
    methods: dict[str, dict[str, Any]] = {}
    for name in draw(st.lists(st.sampled_from(list(METHODS)), min_size=1, unique=True)):
        examples = draw(SUBSETS)
        factors = tuple(draw(st.lists(st.sampled_from(FACTORS), min_size=1, unique=True)))
        methods[name] = {"finetune_examples": examples, "held_out_examples": examples[-1:], "factors": factors}
        if METHODS[name].size_field is not None:
            pets = draw(SUBSETS)
            methods[name] |= {"pet_size": pets[0], "pet_sizes": pets, "held_out_pet_sizes": pets[1:2]}
    assume(any("pet_size" in grid or grid["factors"] != ("pet",) for grid in methods.values()))
    return read_study(
        study(
            sizes,
            draw(st.sampled_from(sizes)),
            tokens,
            tuple(draw(SUBSETS)),
            methods,
            held_out_sizes=sizes[1:2],
            held_out_tokens=tokens[:-1][-1:],
        )
    )


def expected_settings(config: StudyConfig, factor: str) -> set[Setting]:
    """Return the settings of a factor as a plain product, without sharing between factors."""
    family, expected = config.families["f"], set()
    for method, spec in config.tasks["t"].methods.items():
        if factor not in spec.factors or (factor == "pet" and METHODS[method].size_field is None):
            continue
        sizes = family.sizes if factor == "model" else [family.factor_size]
        tokens = family.tokens if factor == "pretrain" else [max(family.tokens)]
        pets = spec.pet_sizes if factor == "pet" else [spec.pet_size]
        for size, token, pet, count in itertools.product(sizes, tokens, pets, spec.finetune_examples):
            expected.add(Setting("t", "f", method, size, token, pet, count, ()))
    return expected


@settings(max_examples=60, deadline=None)
@given(studies())
def test_settings_are_the_union_of_the_factors_without_duplicates(config):
    settings_ = grid.settings(config)
    without_factors = [dataclasses.replace(setting, factors=()) for setting in settings_]
    assert len(set(without_factors)) == len(without_factors)
    for factor in FACTORS:
        of_factor = {
            bare for bare, setting in zip(without_factors, settings_, strict=True) if factor in setting.factors
        }
        assert of_factor == expected_settings(config, factor)
    for setting in settings_:
        assert setting.factors == tuple(factor for factor in FACTORS if factor in setting.factors)


@settings(max_examples=60, deadline=None)
@given(studies())
def test_runs_have_distinct_directories_and_are_sorted_by_base(config):
    runs = grid.runs(config)
    assert len(runs) == len(grid.settings(config)) * len(config.seeds)
    assert len({run.directory for run in runs}) == len(runs)
    bases = [run.setting.size for run in runs]
    assert len(list(itertools.groupby(bases))) == len(set(bases))
    assert grid.runs(config) == runs


def test_a_shared_setting_is_listed_under_the_first_factor():
    lora = {"finetune_examples": (5,), "pet_size": 2, "pet_sizes": (1, 2)}
    found = grid.settings(read_study(study(methods={"lora": lora})))
    assert {(s.size, s.tokens, s.pet_size): s.factors for s in found} == {
        ("30k", 20, 2): ("model", "pretrain", "pet"),
        ("100k", 20, 2): ("model",),
        ("30k", 10, 2): ("pretrain",),
        ("30k", 20, 1): ("pet",),
    }


def test_x_is_the_raw_count_of_the_factor():
    lora = {"finetune_examples": (5,), "pet_size": 2}
    setting = grid.settings(read_study(study(methods={"lora": lora})))[0]
    assert [grid.factor_value(setting, factor, 12345, 0.1) for factor in FACTORS] == [12345, setting.tokens, 2]
    full = grid.settings(read_study(study()))[0]
    with pytest.raises(ValueError, match="no level of the factor pet"):
        grid.factor_value(full, "pet", 12345, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": {"f": {"sizes": ("30k", "31k")}}}, "families.sizes = '31k' is unknown; did you mean '30k'"),
        ({"families": {"f": {"factor_size": "2m"}}}, "config.families.f: families.factor_size = '2m' is not among"),
        ({"families": {"f": {"tokens": (20, 10)}}}, "families.tokens = .* must be positive and increasing"),
        ({"families": {"f": {"tokens": ()}}}, "families.tokens = .* must be positive and increasing"),
        ({"families": {"f": {"held_out_sizes": ("2m",)}}}, "families.held_out_sizes: '2m' is not among"),
        ({"families": {"f": {"held_out_tokens": (11,)}}}, "families.held_out_tokens: 11 is not among"),
        ({"families": {"f": {"size": 1}}}, "config.families.f.size is not a field"),
        ({"tasks": {"t": {"family": "g"}}}, "tasks.t.family = 'g' is unknown"),
        ({"tasks": {"t": {"methods": {"lorra": {"finetune_examples": (1,)}}}}}, "methods = 'lorra' is unknown"),
        (
            {"tasks": {"t": {"methods": {"lora": {"finetune_examples": (1,)}}}}},
            "config.tasks.t: methods.lora needs pet_size",
        ),
        ({"tasks": {"t": {"methods": {"full": {"pet_size": 1}}}}}, "methods.full has no pet_size"),
        (
            {"tasks": {"t": {"methods": {"ia3": {"finetune_examples": (1,), "pet_size": 1}}}}},
            "methods.ia3 has no pet_size",
        ),
        (
            {"tasks": {"t": {"methods": {"full": {"factors": ("modell",)}}}}},
            "config.tasks.t.methods.full: methods.factors: 'modell' is not among",
        ),
        ({"tasks": {"t": {"methods": {"full": {"held_out_examples": (3,)}}}}}, "held_out_examples: 3 is not among"),
        ({"tasks": {"t": {"methods": {"full": {"factors": ()}}}}}, r"tasks\.t\.methods have no runs"),
        ({"tasks": {"t": {"methods": {"full": {"factors": ("pet",)}}}}}, r"tasks\.t\.methods have no runs"),
        ({"seeds": (1, 1)}, "seeds = .* distinct"),
        ({"seeds": ()}, "seeds = .* at least one"),
        ({"seed": (1,)}, "config.seed is not a field of config; did you mean 'seeds'"),
    ],
)
def test_errors_in_a_study_config_name_the_field(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_study(merge(study(), changes))
