"""Studies on public models: sizes and costs of the shipped ones, and a small one from files to report."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.chips import CHIPS
from finetune_scaling.configuration import plain
from finetune_scaling.data.task import jsonl_task
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.interop.hub import ModelLocation, UnreachableError
from finetune_scaling.laws.points.columns import SENSITIVITY_FACTOR
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.models.config import count_parameters
from finetune_scaling.planning.prices import Price
from finetune_scaling.planning.study_totals import study_totals
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.studies import check, public_bases
from finetune_scaling.studies.check import check_runs
from finetune_scaling.studies.configs import base_of, bases, conversion, family_model
from finetune_scaling.studies.execute import ensure_base, execute
from finetune_scaling.studies.grid import read_study, runs, settings
from finetune_scaling.studies.listing import list_bases, list_runs
from finetune_scaling.studies.tables import write_tables
from finetune_scaling.tuning.registry import METHODS

ROOT = Path(__file__).parents[2]
MODELS, TOKENIZERS = (runpy.run_path(str(ROOT / "tests" / f"public_{what}.py")) for what in ("models", "tokenizers"))
VOCABULARY = 344  # more than the tokenizer has, as Pythia's

# Parameters in all, as the models' cards have them.
PUBLISHED = {
    "pythia": {"70m": 70_426_624, "160m": 162_322_944, "410m": 405_334_016, "1b": 1_011_781_632,
               "1.4b": 1_414_647_808, "2.8b": 2_775_208_960, "6.9b": 6_857_302_016, "12b": 11_846_072_320},
    "modern": {"0.6B": 596_049_920, "1.7B": 1_720_574_976, "4B": 4_022_468_096, "8B": 8_190_735_360,
               "14B": 14_768_307_200},
}  # fmt: skip


def shipped(name: str) -> Any:
    return read_study(plain(runpy.run_path(str(ROOT / "configs" / "study" / f"{name}.py"))["get_config"]()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_listed_sizes_are_the_published_ones(name):
    (family,) = shipped(name).families.values()
    counts = {size: count_parameters(family_model(family, size)).total for size in family.sizes}
    assert counts == PUBLISHED[name]


def test_each_revision_is_a_separate_base(tmp_path):
    study = shipped("pythia")
    wanted = {base.name: conversion(study, tmp_path, base) for base in bases(study)}
    assert len(wanted) == 8 + 4  # final checkpoints of all sizes, and intermediate ones of one size
    first = wanted["pythia/410m/t2097152000"]
    assert (first.source, first.pretrain_tokens) == ("EleutherAI/pythia-410m-deduped@step1000", 2_097_152_000)
    assert first.out == str(tmp_path / "bases/pythia/410m/t2097152000")
    assert all(row["flops"] == 0 for row in list_bases(study, tmp_path))


def test_rates_are_swept_at_every_size(tmp_path):
    study = shipped("pythia")
    swept = [s for s in settings(study) if SENSITIVITY_FACTOR in s.factors and (s.task, s.method) == ("mlsum", "lora")]
    assert len(swept) == 8 * 4
    default = [s for s in swept if s.learning_rate is None]
    assert {s.factors for s in default} == {
        ("model", SENSITIVITY_FACTOR),
        ("model", "pretrain", "pet", SENSITIVITY_FACTOR),
    }
    rates = {row["learning_rate"] for row in list_runs(study, tmp_path) if row["method"] == "lora"}
    assert rates == {1e-4, 3e-4, 1e-3, 3e-3}


def test_public_bases_cost_no_pretraining(tmp_path):
    totals = study_totals(read_study(small_study(tmp_path)), [CHIPS["v5p"]], {"v5p": Price(4.2, None, "", "")}, 0.4)
    assert set(totals["methods"]) == {"full", "lora"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revisions": ("step1",)}, "families.public.revisions has 1 entries"),
        ({"revisions": ()}, "families.public.revisions has 0 entries"),
        ({"models": ({},)}, "families.public.models has 1 entries"),
        ({"revisions": ("step1", "step1")}, "families.public.revisions must have no duplicates"),
        ({"source": "same-{revision}"}, "families.public.source = .* add {size}"),
    ],
)
def test_inconsistent_public_ladders_are_an_error(tmp_path, changes, message):
    config = small_study(tmp_path)
    config["families"]["tiny"]["public"].update(changes)
    with pytest.raises(ConfigError, match=message):
        read_study(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ("owner/small", "large")}, "families.sizes: 'owner/small'"),
        ({"sizes": ("..", "large")}, r"families.sizes: '\.\.'"),
        ({"tokens": (1000,), "revisions": ()}, "families.public.source = .* contains {revision}"),
    ],
)
def test_unusable_sizes_and_revisions_are_an_error(tmp_path, changes, message):
    config = small_study(tmp_path)
    family = config["families"]["tiny"]
    family["public"]["revisions"] = changes.pop("revisions", family["public"]["revisions"])
    family.update(changes, factor_size="large")
    with pytest.raises(ConfigError, match=message):
        read_study(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": (0.01, float("nan"))}, "learning_rates = .* must be positive, finite"),
        ({"learning_rates": (0.01, float("inf"))}, "learning_rates = .* must be positive, finite"),
        ({"learning_rates": (0.0123456, 0.01234564)}, "first six digits"),  # equal directory names
        ({"sweep_examples": (0,)}, "sweep_examples = .0. must be"),
        ({"learning_rates": (), "sweep_examples": (8,)}, "requires methods.learning_rates"),
    ],
)
def test_an_invalid_sweep_is_an_error(tmp_path, changes, message):
    config = small_study(tmp_path)
    config["tasks"]["translation"]["methods"]["full"].update(changes)
    with pytest.raises(ConfigError, match=message):
        read_study(config)


def test_a_methods_default_rate_is_not_run_twice(tmp_path):
    config = small_study(tmp_path)
    default = METHODS["full"].defaults.learning_rate
    config["tasks"]["translation"]["methods"]["full"].update({"config": {}, "learning_rates": (default, 10 * default)})
    rates = [
        s.learning_rate for s in settings(read_study(config)) if s.method == "full" and SENSITIVITY_FACTOR in s.factors
    ]
    assert sorted(rates, key=lambda rate: rate is None) == [10 * default, 10 * default, None, None]


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_sweeps_do_not_use_held_out_dataset_sizes(name):
    for task_grid in shipped(name).tasks.values():
        for grid in task_grid.methods.values():
            assert not set(grid.sweep_examples) & set(grid.held_out_examples)
            assert set(grid.sweep_examples) <= set(grid.finetune_examples)


WIDTHS = {"small": 16, "large": 32}
REVISIONS = ("step1", "step2")


def small_study(folder: Path) -> dict[str, Any]:
    """The form of configs/study/pythia.py over models in a folder: two sizes, two revisions, two methods, a sweep."""
    method = {"finetune_examples": (8, 16), "learning_rates": (0.01, 0.1), "sweep_examples": (16,)}
    config = {"schedule": {"learning_rate": 0.01}}
    return {
        "name": "miniature",
        "families": {
            "tiny": {
                "public": {
                    "source": f"{folder}/{{size}}-{{revision}}",
                    "revisions": REVISIONS,
                    "models": tuple(plain(shape(width)) for width in WIDTHS.values()),
                },
                "sizes": tuple(WIDTHS),
                "factor_size": "small",
                "tokens": (1000, 2000),
            }
        },
        "tasks": {
            "translation": {
                "family": "tiny",
                "task": task(folder),
                "finetune": {
                    "sequence": {"length": 48, "max_source_tokens": 16, "max_target_tokens": 16},
                    "batch": {"size": 4},
                    "limits": {"max_steps": 4, "tolerance": 10.0},
                    "evaluation": {"times": 2, "dev_examples": 4, "test_examples": 4, "generate_examples": 0},
                },
                "methods": {
                    "full": {**method, "factors": ("model", "pretrain"), "config": config},
                    "lora": {**method, "factors": ("model",), "pet_size": 2, "config": config},
                },
            }
        },
    }


def shape(width: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox", "vocab_size": VOCABULARY, "num_hidden_layers": 2, "hidden_size": width,
        "num_attention_heads": 4, "intermediate_size": 40, "max_position_embeddings": 64, "rotary_pct": 0.5,
        "tie_word_embeddings": False,
    }  # fmt: skip


def task(folder: Path) -> dict[str, Any]:
    return plain(
        jsonl_task(
            name="jsonl", kind="translation", languages=("en", "de"), fields=("en", "de"), train="train.jsonl",
            dev="dev.jsonl", test={"test": "test.jsonl"}, template={"input": "{source} =", "target": " {target}"},
            sources={"data_dir": str(folder)},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def ladder(tmp_path_factory) -> Path:
    """Random Pythia models of two sizes and two revisions, with a tokenizer, and a few lines to translate."""
    folder = tmp_path_factory.mktemp("ladder")
    for size, width in WIDTHS.items():
        for number, revision in enumerate(REVISIONS):
            fields = {name: value for name, value in shape(width).items() if name != "model_type"}
            model = MODELS["make"]("gpt_neox", **fields)
            for weight in model.parameters():
                weight.data += 0.01 * number  # revisions differ
            TOKENIZERS["KINDS"]["gpt_neox"](folder / f"{size}-{revision}")
            model.save_pretrained(folder / f"{size}-{revision}")
    for split, count in (("train", 24), ("dev", 8), ("test", 8)):
        lines = [json.dumps({"en": f"{split} {n}", "de": f"{split.upper()} {n}"}) for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


QUICK_STUDY = """
import functools, runpy, sys
from finetune_scaling.report import study_report
study_report.Resampling = functools.partial(study_report.Resampling, resamples=40)
sys.argv[0] = "study"  # absl names the flags of the command by it
runpy.run_module("finetune_scaling.study", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_study_of_public_models_ends_with_its_report_even_if_runs_fail(ladder, shared_cache, tmp_path):
    config, weights = small_study(ladder), ladder / "small-step1" / "model.safetensors"
    del config["tasks"]["translation"]["methods"]["lora"]  # compiles as long as the other
    study, workdir, file = read_study(config), tmp_path / "study", tmp_path / "config.py"
    file.write_text(f"from ml_collections import ConfigDict\nget_config = lambda: ConfigDict(\n{config!r})\n")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\xff" * 4)  # NaN, which only the conversion finds
    command = [sys.executable, "-c", QUICK_STUDY, f"--config={file}", f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True)
    weights.write_bytes(whole)
    failed = [run.directory for run in runs(study) if run.setting.tokens == 1000]
    assert done.returncode == 1, done.stderr
    assert f"{len(runs(study)) - 2} of {len(runs(study))} runs finished" in done.stdout
    assert not (workdir / "bases.csv").exists()
    report = (workdir / "report" / "report.html").read_text()
    assert len(failed) == 2
    assert all(name in done.stderr and name.removeprefix("runs/") in report for name in failed)

    assert execute(study, config, workdir).done == len(failed)  # the weights are finite again
    assert write_tables(study, workdir) == (len(runs(study)), {})
    assert json.loads((workdir / "study.json").read_text())["notes"] == []
    for run in runs(study):
        base = RunDirectory(base_of(study, run.setting).directory(workdir)).result
        record = RunDirectory(workdir / run.directory).result
        assert record["pretrain_tokens"] == run.setting.tokens
        assert record["parameters"] == base["parameters"]
    rows = list(csv.DictReader((workdir / "points.csv").open()))
    sweep = [row for row in rows if row["factor"] == SENSITIVITY_FACTOR]
    assert {(row["method"], row["model"], float(row["x"])) for row in sweep} == {
        ("full", size, rate) for size in WIDTHS for rate in (0.01, 0.1)
    }
    assert {float(row["x"]) for row in rows if row["factor"] == "pretrain"} == {1000.0, 2000.0}
    revisions = [r["loss"] for r in rows if r["factor"] == "pretrain" and r["finetune_examples"] == "16"]
    assert len(set(revisions)) == 2  # another base is another loss
    plot = json.loads((workdir / "report" / "plots" / "study-learning-rate.json").read_text())
    assert all("parameters" in text for text in plot["points"]["text"])
    assert len(plot["points"]["x"]) == len(sweep) == 4


def unlisted(folder: Path) -> dict[str, Any]:
    """The study without shapes and pretraining tokens, which its directories hold or nobody knows; one method."""
    config = small_study(folder)
    family = config["families"]["tiny"]
    del family["public"]["models"], family["tokens"]
    family["public"]["revisions"] = ("step2",)
    methods = config["tasks"]["translation"]["methods"]
    config["tasks"]["translation"]["methods"] = {
        "full": {"finetune_examples": (8,), "config": methods["full"]["config"]}
    }
    return config


def test_shapes_come_from_config_json_and_unknown_tokens_are_no_factor(ladder, tmp_path):
    study, listed = read_study(unlisted(ladder)), read_study(small_study(ladder))
    for size in WIDTHS:
        found, expected = (family_model(one.families["tiny"], size) for one in (study, listed))
        assert count_parameters(found) == count_parameters(expected)
    assert [(run.directory, run.setting.factors) for run in runs(study)] == [
        (f"runs/translation/full/{size}_d8_s0", ("model",)) for size in WIDTHS
    ]
    assert {base.directory(tmp_path) for base in bases(study)} == {
        tmp_path / "bases" / "tiny" / size for size in WIDTHS
    }
    assert conversion(study, tmp_path, bases(study)[0]).pretrain_tokens is None
    assert [row["pretrain_tokens"] for row in list_runs(study, tmp_path)] == [None, None]
    check_runs(study, tmp_path, runs(study))
    with pytest.raises(ConfigError, match=r"families.tokens = "):
        read_study({**tiny_pretraining(), "tasks": unlisted(ladder)["tasks"]})


def tiny_pretraining() -> dict[str, Any]:
    family = {"tokenizer": "somewhere", "sizes": ("30k",), "factor_size": "30k"}
    return {"name": "without tokens", "families": {"tiny": family}}


@pytest.mark.slow
def test_a_study_of_models_with_unknown_tokens_has_points_without_them(ladder, tmp_path):
    config = unlisted(ladder)
    config["families"]["tiny"]["sizes"] = ("small",)
    study = read_study(config)
    assert execute(study, config, tmp_path).done == 1
    assert write_tables(study, tmp_path) == (1, {})
    table = read_points(tmp_path / "points.csv")
    assert table.runs["pretrain_tokens"].isna().all()
    small = family_model(study.families["tiny"], "small")
    assert set(table.runs["x"]) == {count_parameters(small).total}


def test_bases_of_a_family_with_different_tokenizers_are_an_error_before_and_after_conversion(ladder, tmp_path):
    models, config = Path(shutil.copytree(ladder, tmp_path / "models")), small_study(tmp_path / "models")
    study, workdir = read_study(config), tmp_path / "study"
    message = r"families.tiny: tiny/small/t1000 and tiny/large/t2000 have different tokenizers"
    first, last = bases(study)[0], bases(study)[-1]
    ensure_base(study, workdir, first)
    changed = models / "large-step2" / "tokenizer.json"
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(ConfigError, match=message):
        execute(study, config, tmp_path / "other")
    assert not (tmp_path / "other" / "bases").exists()
    with pytest.raises(ConfigError, match=message):
        ensure_base(study, workdir, last)


def test_what_a_public_tokenizer_lacks_is_an_error_before_its_conversion(ladder, tmp_path):
    config = small_study(ladder)
    config["tasks"]["translation"]["finetune"]["sequence"]["mode"] = "S"
    study = read_study(config)
    with pytest.raises(ConfigError, match=r"methods.full: sequence.mode = 'S', but the tokenizer has no mode tokens"):
        execute(study, config, tmp_path)
    assert not (tmp_path / "bases").exists()


def test_tokenizers_on_the_hub_are_checked_before_weights_are_fetched(ladder, tmp_path, monkeypatch):
    fetched = Path(shutil.copytree(ladder, tmp_path / "hub", ignore=shutil.ignore_patterns("*.safetensors")))
    config = small_study(tmp_path)
    config["families"]["tiny"]["public"]["source"] = "owner/{size}-{revision}"
    translation = config["tasks"]["translation"]
    translation["task"] = task(ladder)
    translation["finetune"]["evaluation"]["decoding"] = {"stop": (" ",)}
    study = read_study(config)

    def fetch_files(source: str) -> ModelLocation:
        return ModelLocation(source, str(fetched / source.removeprefix("owner/")), None, "commit")

    monkeypatch.setattr(check, "fetch_files", fetch_files)
    with pytest.raises(ConfigError, match=r"methods.full: decoding.stop has ' '"):
        execute(study, config, tmp_path / "study")

    def unreachable(source: str) -> ModelLocation:
        raise UnreachableError(source)

    monkeypatch.setattr(check, "fetch_files", unreachable)
    check.check_with_tokenizers(study, tmp_path, runs(study))


def test_a_base_with_another_shape_is_refused_before_download(ladder, tmp_path):
    right, wrong = read_study(small_study(ladder)), read_study(with_another_shape(ladder))
    first = bases(right)[0]
    message = r"model.layers = 2, but families.tiny.public.models, small, has 3; fix the study's config"
    with pytest.raises(CheckpointError, match=rf"families.tiny.public: {ladder}/small-step1: {message}"):
        check_runs(wrong, tmp_path, runs(wrong))
    assert not any(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=message):
        ensure_base(wrong, tmp_path, first)
    assert not first.directory(tmp_path).exists()
    ensure_base(right, tmp_path, first)
    with pytest.raises(CheckpointError, match=message):  # a converted base
        ensure_base(wrong, tmp_path, first)


def test_the_context_length_of_each_size_is_checked_before_training(tmp_path):
    config = small_study(tmp_path)
    small, large = config["families"]["tiny"]["public"]["models"]
    config["families"]["tiny"]["public"]["models"] = small, {**large, "max_position_embeddings": 47}
    study = read_study(config)
    with pytest.raises(ConfigError, match=r"methods.full: sequence.length = 48: .* max_length = 47"):
        check_runs(study, tmp_path, runs(study))


@pytest.mark.parametrize("size", ["total", "non_embedding"])
def test_two_sizes_of_one_parameter_count_are_an_error_before_training(size, tmp_path):
    config = small_study(tmp_path) | {"size": size}
    public = config["families"]["tiny"]["public"]
    small = public["models"][0]
    public["models"] = small, {**small, "vocab_size": VOCABULARY + (size == "non_embedding")}
    study = read_study(config)
    for pending in (runs(study), runs(study)[-1:]):  # the others may be finished
        with pytest.raises(ConfigError, match=r"families.tiny.sizes: small and large both have .* parameters"):
            check_runs(study, tmp_path, pending)


def test_missing_pretraining_text_of_a_public_model_is_an_error_before_download(ladder, tmp_path):
    config = small_study(ladder)
    config["tasks"]["translation"]["finetune"]["evaluation"]["evaluators"] = {"pretraining": {}}
    study = read_study(config)
    with pytest.raises(ConfigError, match="evaluator pretraining: the pretraining text of a public model"):
        check_runs(study, tmp_path, runs(study))


def with_another_shape(folder: Path) -> dict[str, Any]:
    config = small_study(folder)
    models = tuple({**shape(width), "num_hidden_layers": 3} for width in WIDTHS.values())
    config["families"]["tiny"]["public"]["models"] = models
    return config


def test_a_missing_public_base_is_an_error_before_training(ladder, tmp_path, monkeypatch, caplog):
    config = small_study(ladder)
    config["families"]["tiny"]["public"]["source"] = f"{ladder}/{{size}}--{{revision}}"
    study = read_study(config)
    with pytest.raises(CheckpointError, match=r"families.tiny.public: .*small--step1: no such directory"):
        check_runs(study, tmp_path, runs(study))

    models = Path(shutil.copytree(ladder, tmp_path / "models"))
    weights = models / "large-step2" / "model.safetensors"
    study, whole = read_study(small_study(models)), weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match=r"families.tiny.public: .*large-step2"):
        check_runs(study, tmp_path, runs(study))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"families.tiny.public: .*large-step2"):
        check_runs(study, tmp_path, runs(study))
    weights.write_bytes(whole)

    def unreachable(source: str) -> None:
        raise UnreachableError(f"{source}: the hub cannot be reached")

    monkeypatch.setattr(public_bases, "read_source_config", unreachable)
    check_runs(study, tmp_path, runs(study))  # runs on converted bases can continue
    assert "base tiny/small/t1000: " in caplog.text
    assert "the hub cannot be reached" in caplog.text
