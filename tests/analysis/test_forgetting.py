"""Forgetting and transfer: score differences from the untuned model per run, with means and ranges."""

import itertools

import numpy as np
import pytest

from finetune_scaling.analysis.forgetting import main_factor, score_changes, shown_columns
from finetune_scaling.formatting import score_name
from finetune_scaling.laws.points.columns import Column, evaluator_column, is_own_metric, lower_is_better
from finetune_scaling.laws.points.table import read_points

BASELINES = {"t": {"few_shot_1": {"copy": {"bleu": 1.5}}}}
RISE = {"full": 0.4, "lora": 0.1, "prompt": 0.0}
HEADER = (
    "task,method,factor,x,finetune_examples,loss,seed,held_out,bleu,pretraining.loss,pretraining.untuned.loss,"
    "few_shot_1.bleu,few_shot_1.untuned.bleu,pretraining.entropy,pretraining.untuned.entropy,zero_shot.bleu,remark"
)


@pytest.fixture
def table(tmp_path):
    """Two sizes, two seeds: pretraining loss rises by RISE, ten times as much at 1,000 examples; 1-shot falls."""
    lines = [HEADER]
    for method, x, examples, seed in itertools.product(RISE, (1e6, 4e6), (100, 1000), (0, 1)):
        base = 3.0 if x == 1e6 else 2.0
        tuned = base + RISE[method] * (1 if examples == 100 else 10) * (1 + 0.1 * seed)
        shot = 8 - RISE[method]
        lines.append(f"t,{method},model,{x},{examples},2.{seed},{seed},0,20,{tuned},{base},{shot},8,1,1,5,x")
    lines.append("t,lora,pet,16,1000,2.4,0,0,20,2.5,2.0,,8,1,1,5,x")
    (tmp_path / "points.csv").write_text("\n".join(lines))
    return read_points(tmp_path / "points.csv")


def find(found, **keys):
    return found[(found[list(keys)] == list(keys.values())).all(axis=1)]


def test_changes_are_means_and_ranges_over_sizes_and_seeds(table):
    found = score_changes(table, BASELINES)
    rows = find(found, method="full", factor="model", finetune_examples=1000.0, column="pretraining.loss")
    (overall,) = rows[rows["x"].isna()].itertuples()
    assert (overall.runs, overall.untuned) == (4, 2.5)
    assert (overall.mean, overall.low, overall.high) == pytest.approx((4.2, 4.0, 4.4))
    each = rows[rows["x"].notna()]
    assert each[["x", "runs", "untuned"]].values.tolist() == [[1e6, 2, 3.0], [4e6, 2, 2.0]]
    assert overall.lower_is_better
    assert np.isnan(overall.baseline)
    shots = find(found, method="lora", column="few_shot_1.bleu", finetune_examples=100.0)
    (shot,) = shots[shots["x"].isna()].itertuples()
    assert (shot.mean, shot.baseline, shot.lower_is_better) == (pytest.approx(-0.1), 1.5, False)


def test_changes_need_a_column_of_the_untuned_model(table):
    found = score_changes(table, BASELINES)
    assert set(found["column"]) == {"pretraining.loss", "few_shot_1.bleu"}
    assert set(find(found, factor="pet")["column"]) == {"pretraining.loss"}
    assert main_factor(found, "t") == "model"
    assert shown_columns(found, "t", "bleu") == ["pretraining.loss", "few_shot_1.bleu"]
    assert table.ignored == ("remark",)


def test_a_perplexity_is_not_shown_next_to_its_loss(tmp_path):
    columns = [f"pretraining.{prefix}{name}" for name in ("loss", "perplexity") for prefix in ("", "untuned.")]
    header = ",".join(["task,method,factor,x,finetune_examples,loss,seed,held_out", *columns])
    (tmp_path / "points.csv").write_text(f"{header}\nt,full,model,1e6,100,2.0,0,0,3.0,2.0,20.1,7.4")
    found = score_changes(read_points(tmp_path / "points.csv"), {})
    assert set(found["column"]) == {"pretraining.loss", "pretraining.perplexity"}
    assert shown_columns(found, "t", "bleu") == ["pretraining.loss"]


def test_a_table_without_evaluators_has_no_changes(tmp_path):
    (tmp_path / "points.csv").write_text(f"{HEADER.partition(',pretraining')[0]}\nt,full,model,1e6,10,2,0,0,20")
    found = score_changes(read_points(tmp_path / "points.csv"), {})
    assert found.empty
    assert main_factor(found, "t") is None


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("few_shot_1.bleu", ("few_shot_1", "bleu", False)),
        ("pretraining.untuned.loss", ("pretraining", "loss", True)),
        ("zero_shot.untuned.chrf++", ("zero_shot", "chrf++", True)),
        ("my-set.perplexity_per_byte", ("my-set", "perplexity_per_byte", False)),
        ("dev.bleu:intl", ("dev", "bleu:intl", False)),
        ("terms.bleu", ("terms", "bleu", False)),
        ("comets.loss", ("comets", "loss", False)),
        ("bleu.untuned.chrf", ("bleu", "chrf", True)),
        ("few_shot_1.entropy", ("few_shot_1", "entropy", False)),
    ],
)
def test_evaluators_columns_are_read(name, column):
    assert evaluator_column(name) == Column(name, *column)


@pytest.mark.parametrize("name", ["bleu", "loss", "remark", "few_shot_1.remark", "few_shot_1.other.bleu", "rougeL.x"])
def test_other_columns_belong_to_no_evaluator(name):
    assert evaluator_column(name) is None


@pytest.mark.parametrize("name", ["bleu", "rougeL-stem", "comet.wmt22", "bleu:intl", "metricx-2.3"])
def test_metrics_of_the_own_test_sets_may_have_dots(name):
    assert is_own_metric(name)


@pytest.mark.parametrize("name", ["terms.bleu", "rouge_set.untuned.bleu", "bleu.loss", "loss"])
def test_evaluators_named_as_a_metric_begins_are_not_the_own_test_sets(name):
    assert not is_own_metric(name)
    assert not lower_is_better(name) or "loss" in name


def test_which_direction_is_better():
    names = ["ter", "TER", "zero_shot.ter", "pretraining.loss", "a.untuned.perplexity", "metricx"]
    assert all(map(lower_is_better, names))
    assert not any(map(lower_is_better, ["bleu", "chrf", "zero_shot.rougeL", "comet", "few_shot_1.f1"]))


def test_columns_have_names_in_running_text():
    assert score_name("few_shot_5.rougeL") == "5-shot rougeL"
    assert score_name("pretraining.loss") == "loss on pretraining text"
    assert score_name("zero_shot.bleu") == "zero-shot bleu"
