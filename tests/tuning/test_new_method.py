"""A new method is one declaration: it trains, checkpoints, decodes and is recorded without a line elsewhere.

It is the example of docs/methods.md, whose rule matches parameters of the base (norms) and new ones. Tests of all
methods check it too: merging, cached decoding, packed rows (test_methods.py), resuming (../experiments/test_run.py) and
memory plans (../planning/test_workload.py).
"""

import jax
import numpy as np
import pytest

from finetune_scaling.evaluation.scoring import example_losses
from finetune_scaling.experiments.run import run
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.models.ladder import model_config
from finetune_scaling.report.study_report import fit_study
from finetune_scaling.runs import run_data
from finetune_scaling.runs.checkpoints import read_trainable
from finetune_scaling.runs.model_loading import find_run, load_base, load_run_checkpoint
from finetune_scaling.studies.execute import execute
from finetune_scaling.studies.grid import read_study
from finetune_scaling.studies.tables import write_points
from finetune_scaling.trees import flatten
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine
from finetune_scaling.tuning.registry import METHODS

TRAINED = {
    "final_norm/scale",
    "layers/norm/scale",
    "layers/attention/key/gain",
    "layers/attention/value/gain",
    "layers/feed_forward/up/gain",
}


def leaves(tree) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


def test_its_rule_trains_all_norms_of_sequential_blocks(example_method):
    model, tuning = model_config({"name": "30k", "block": "sequential"}, 256), configure(METHODS, {"name": "gain"})
    trainable, _ = jax.eval_shape(lambda key: attach(model, tuning, key), jax.random.key(0))
    assert flatten(trainable).keys() == TRAINED | {"layers/feed_forward_norm/scale"}


def test_a_method_of_a_users_own_trains_checkpoints_and_decodes(tiny_runs, example_method, tmp_path):
    config = tiny_runs.config("full", name="gain", method={"name": "gain"}, evaluation={"generate_examples": 5})
    config["schedule"] = {}  # the method's own learning rate
    record = run(config, tmp_path)

    base = load_base(tiny_runs.base)
    c = base.config
    assert record["method"] == "gain"
    assert record["learning_rate"] == example_method.defaults.learning_rate
    expected = c.layers * (c.model_dim + 2 * c.kv_heads * c.head_dim + c.ffn_dim) + c.model_dim
    assert record["trainable_parameters"] == expected
    first, *_, last = record["dev_losses"].values()
    assert last < first

    saved = leaves(read_trainable(tmp_path / "checkpoints" / str(record["best_step"]))[0])
    assert saved.keys() == TRAINED
    assert all((leaf != 1).any() for name, leaf in saved.items() if name.endswith("gain"))

    found = find_run(tmp_path)
    model, run_config = load_run_checkpoint(found), found.run_config
    jax.tree.map(np.testing.assert_array_equal, saved, leaves(model.trainable))
    kept, before = leaves(model.frozen), leaves(base.params)
    assert kept.keys() == before.keys() - TRAINED
    jax.tree.map(np.testing.assert_array_equal, kept, {name: before[name] for name in kept})
    assert leaves(combine(model.trainable, model.frozen)).keys() == before.keys() | TRAINED

    rows = [line for line in (tmp_path / "evaluation" / "test.jsonl").read_text().splitlines() if "hypothesis" in line]
    assert len(rows) == 5
    assert "bleu" in record["metrics"]
    examples = run_data.test_examples(run_config, "test", None)
    losses = example_losses(model, *run_data.task_and_format(run_config), examples, batch_size=20)
    assert losses.mean == record["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"full", "prompt", "lora"}))
def test_a_run_of_each_method_loads_again_with_the_loss_of_its_record(tiny_runs, name, tmp_path):
    config = tiny_runs.config(name, evaluation={"generate_examples": 2})
    record = run(config | {"schedule": {}}, tmp_path)
    found = find_run(tmp_path)
    model, run_config = load_run_checkpoint(found), found.run_config
    examples = run_data.test_examples(run_config, "test", None)
    losses = example_losses(model, *run_data.task_and_format(run_config), examples, batch_size=20)
    assert losses.mean == record["loss"]
    assert record["method"] == name


@pytest.mark.slow
def test_a_study_takes_it_from_a_config_to_the_laws(tiny_runs, example_method, tmp_path):
    config = tiny_runs.config("study")
    grid = {"finetune_examples": (10, 20, 40), "held_out_examples": (40,), "factors": ("model",)}
    config["tasks"]["translation"]["methods"] = {"gain": grid, "full": grid}
    study = read_study(config)
    assert execute(study, config, tmp_path).done == 12
    write_points(study, tmp_path)
    few = Resampling(resamples=40)
    analysis = fit_study(tmp_path / "points.csv", tmp_path / "report", resampling=few, progress=lambda line: None)
    assert analysis.methods == ("full", "gain")
    assert "gain vectors" in (tmp_path / "report" / "report.html").read_text()
