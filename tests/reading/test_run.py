"""load_run: data equals the run directory's, and reading changes nothing."""

import gc
import hashlib
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from finetune_scaling.errors import CheckpointError, ConfigError, DataError, WorkdirError
from finetune_scaling.experiments.run import run as train
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.reading import load_run, load_study
from finetune_scaling.runs.checkpoints import read_checkpoint

DECODED = 6


@pytest.fixture(scope="module")
def directory(tiny_runs, tmp_path_factory) -> Path:
    """A finished LoRA run, which tests must not change."""
    folder = tmp_path_factory.mktemp("lora")
    train(tiny_runs.config("lora", evaluation={"generate_examples": DECODED}), folder)
    return folder


def contents(directory: Path) -> dict[str, str]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_frames_do_not_import_jax(directory, tiny_runs):
    program = f"""
import sys
from finetune_scaling.reading import load_run, load_study
run = load_run({str(directory)!r})
assert run.config and run.result and run.method and run.loss and len(run.curves) and run.name
assert len(run.samples()) and run.splits and "done" in repr(run)
assert "jax" not in sys.modules and "scipy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_curves_equal_metrics(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    curves = load_run(directory).curves
    assert curves.index.name == "step"
    assert list(curves.index) == sorted({line["step"] for line in lines})
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time"):
                assert curves.loc[line["step"], name] == value
    assert curves["dev_loss"].notna().sum() == sum("dev_loss" in line for line in lines)
    assert list(curves)[:2] == ["loss", "dev_loss"]


def test_scores_equal_the_result_record(directory):
    run, record = load_run(directory), json.loads((directory / "result.json").read_text())
    scores = run.scores.set_index("metric")
    assert run.loss == scores.loc["loss", "score"] == record["loss"]
    for name, entry in record["tests"]["test"]["metrics"].items():
        assert (scores.loc[name, "score"], scores.loc[name, "signature"]) == (entry["score"], entry["signature"])
    assert set(run.scores["evaluation"]) == {"result"}
    assert set(run.scores["of"]) == {"model"}


def test_scores_include_evaluators(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    bleu = {"score": 3.5, "signature": "s"}
    record = {
        "evaluator": "few",
        "checkpoint": {"step": load_run(copy).result["best_step"]},
        "loss": 2.0,
        "metrics": {"bleu": bleu},
        "untuned": {"loss": 4.0, "metrics": {}},
        "baselines": {"copy": {"metrics": {"bleu": bleu}}},
        "splits": {"a": {"loss": 1.0, "metrics": {}}, "b": {"loss": 3.0, "metrics": {}}},
    }
    (copy / "evaluation" / "few.json").write_text(json.dumps(record))
    scores = load_run(copy).scores.query("evaluation == 'few'")
    found = {(row.split, row.of, row.metric): row.score for row in scores.itertuples()}
    assert found == {
        ("all", "model", "loss"): 2.0,
        ("all", "model", "bleu"): 3.5,
        ("a", "model", "loss"): 1.0,
        ("b", "model", "loss"): 3.0,
        ("all", "untuned", "loss"): 4.0,
        ("all", "copy", "bleu"): 3.5,
    }


def test_samples_equal_the_rows(directory):
    rows = [json.loads(line) for line in (directory / "evaluation" / "test.jsonl").read_text().splitlines()]
    run = load_run(directory)
    samples = run.samples()
    assert run.splits == ["test"]
    assert list(samples.index) == [row["index"] for row in rows]
    for name in ("source", "reference", "target_language"):
        assert list(samples[name]) == [row[name] for row in rows]
    assert list(samples["hypothesis"]) == [row.get("hypothesis") for row in rows]
    assert samples["hypothesis"].notna().sum() == DECODED
    np.testing.assert_allclose(samples["loss"] * samples["tokens"], [row["loss_sum"] for row in rows])
    assert run.samples("test").equals(samples)
    with pytest.raises(DataError, match="available splits: test"):
        run.samples("dev")


def test_samples_without_decoding_and_of_other_sets(directory, tiny_runs, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    (copy / "evaluation" / "test.jsonl").rename(copy / "evaluation" / "news.jsonl")
    record = json.loads((copy / "result.json").read_text())
    record["tests"] = {"news": record["tests"].pop("test")}
    (copy / "result.json").write_text(json.dumps(record))
    assert load_run(copy).samples().equals(load_run(directory).samples())
    rows = [json.loads(line) for line in (copy / "evaluation" / "news.jsonl").read_text().splitlines()]
    bare = [{name: value for name, value in row.items() if name != "hypothesis"} for row in rows]
    (copy / "evaluation" / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    assert list(load_run(copy).samples()["hypothesis"]) == [None] * len(rows)
    sums = [{name: row[name] for name in ("index", "loss_sum", "tokens", "bytes")} for row in rows]
    (copy / "evaluation" / "text.text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    run = load_run(copy)
    running = run.samples("text.text")
    assert run.splits == ["news", "text.text"]
    assert list(running["loss"]) == list(run.samples()["loss"])
    assert list(running["source"]) == list(running["hypothesis"]) == [None] * len(rows)
    with pytest.raises(DataError, match="score the run first"):
        load_run(tiny_runs.base).samples()


def test_params_are_the_adapter_only(directory):
    run = load_run(directory)
    assert run.steps == sorted(int(path.name) for path in (directory / "checkpoints").iterdir())
    arrays, _ = read_checkpoint(directory / "checkpoints" / str(run.result["best_step"]))
    stored = {name: leaf for name, leaf in arrays.items() if name.startswith("trainable")}
    leaves = jax.tree_util.tree_leaves_with_path(run.params())
    assert len(leaves) == len(stored)
    for path, leaf in leaves:
        name = ".".join(["trainable", *(str(key.key) for key in path)])
        assert isinstance(leaf, np.ndarray)
        np.testing.assert_array_equal(leaf, stored[name])
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; there are"):
        run.params(7)


def test_generate_reproduces_the_scored_hypotheses_and_changes_no_file(directory, tiny_runs):
    before = contents(directory) | contents(tiny_runs.base)
    run = load_run(directory)
    samples = run.samples().head(DECODED)
    sources = list(samples["source"])
    assert run.generate(sources) == list(samples["hypothesis"])
    assert run.generate(sources[::-1]) == list(samples["hypothesis"])[::-1]
    (short,) = run.generate(sources[:1], max_new_tokens=3)
    assert samples["hypothesis"].iloc[0].startswith(short)
    assert len(short) < len(samples["hypothesis"].iloc[0])
    assert run.generate([]) == []
    assert run.model() is run.model()
    assert run.base.path == tiny_runs.base
    assert run.scores is not None
    assert contents(directory) | contents(tiny_runs.base) == before


def test_a_deleted_run_frees_its_model(directory):
    run = load_run(directory)
    model = weakref.ref(run.model())
    assert run.model() is model()
    del run
    gc.collect()
    assert model() is None


def test_generate_accepts_a_column(directory):
    run = load_run(directory)
    sources = run.samples()["source"].iloc[2:4]
    assert run.generate(sources, max_new_tokens=3) == run.generate(list(sources), max_new_tokens=3)
    assert run.generate(sources.iloc[:0]) == []


def test_a_base_continues_a_text(tiny_runs):
    base, text, count = load_run(tiny_runs.base), "supi sati", 4
    model = base.model()
    network, tokenizer = LanguageModel(model.config), model.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    start = len(ids)
    for _ in range(count):  # without a cache: recompute the complete text for every token
        row = jnp.asarray([ids + [tokenizer.pad_id] * (start + count - len(ids))], jnp.int32)
        positions = jnp.arange(start + count)[None]
        layout = TokenLayout(positions, (positions < len(ids)).astype(jnp.int32), jnp.zeros(row.shape, bool))
        hidden, _ = network.forward(model.frozen, network.embed(model.frozen, row), layout)
        ids.append(int(network.unembed(model.frozen, hidden)[0, len(ids) - 1].argmax()))
        if ids[-1] == tokenizer.eos_id:
            break
    assert base.generate([text], max_new_tokens=count) == [tokenizer.decode(ids[start:]).strip()]
    assert (base.base, base.state, base.scores.empty) == (None, "done", True)
    with pytest.raises(ConfigError, match=r"texts\[1\] of up to \d+ tokens.* max_length = 64.*shorten the text"):
        base.generate([text, "supi " * 70, text])
    with pytest.raises(ConfigError, match="languages apply to runs with a task"):
        base.generate([text], target_language="B")


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, "a list of texts, not 'one text'"),
        (None, {}, "a list of texts, not None"),
        (["one", None], {}, r"texts\[1\] is None"),
        (["one"], {"beam": 4}, "decoding.beam is not a field of decoding; did you mean 'beams'"),
        (["one"], {"method": "greedy", "temperature": 0.5}, "is for decoding.method = 'sample'"),
        (["one"], {"target_language": "de"}, "target_language = 'de' matches 0 of them"),
        (["one"], {"max_new_tokens": 60}, "more than the model's context length, max_length = 64"),
    ],
)
def test_wrong_requests_raise(directory, texts, options, message):
    with pytest.raises(ConfigError, match=message):
        load_run(directory).generate(texts, **options)


def test_several_language_pairs_require_a_language(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    (part,) = config["task"]["train"]
    config["task"]["train"].append({**part, "source_language": "B", "target_language": "A"})
    (copy / "config.json").write_text(json.dumps(config))
    run = load_run(copy)
    with pytest.raises(ConfigError, match="has the directions A-B, B-A"):
        run.generate(["supi"])
    into_b = run.generate(["supi"], target_language="B")
    assert into_b == run.generate(["supi"], source_language="A") == load_run(directory).generate(["supi"])


def test_requests_are_checked_before_the_model_is_loaded(directory, monkeypatch):
    run = load_run(directory)
    monkeypatch.setattr(type(run), "model", lambda *_: pytest.fail("the model was read"))
    for wrong in ({"beam": 4}, {"target_language": "de"}):
        with pytest.raises(ConfigError):
            run.generate(["supi"], **wrong)


def test_a_run_in_progress(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    (copy / "result.json").unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])
    run = load_run(copy)
    assert (run.state, run.result, run.loss, run.scores.empty) == ("started", None, None, True)
    assert len(run.curves) >= 1
    assert run.params()
    shutil.copy(directory / "result.json", copy)  # it finishes while it is read
    assert (run.state, run.loss, load_run(copy).state) == ("started", None, "done")
    (copy / "result.json").unlink()
    (copy / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')  # not evaluated on dev examples yet
    assert load_run(copy).curves["dev_loss"].dropna().empty
    (copy / "metrics.jsonl").unlink()
    empty = load_run(copy).curves
    assert empty.empty
    assert isinstance(empty["dev_loss"].dropna(), pd.Series)


def test_base_is_at_the_step_that_the_run_started_from(directory, tiny_runs, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "run"))
    config = json.loads((copy / "config.json").read_text())
    config["base"]["step"] = 10
    (copy / "config.json").write_text(json.dumps(config))
    early, last = load_run(copy).base, load_run(tiny_runs.base)
    assert (early.step, last.step) == (10, None)
    assert last.steps == [10, 20]
    equal = lambda one, other: jax.tree.all(jax.tree.map(np.array_equal, one, other))  # noqa: E731
    assert equal(early.params(), last.params(10))
    assert equal(early.params(20), last.params())
    assert not equal(early.params(), last.params())


def test_a_base_moved_with_its_run_is_found(directory, tiny_runs, tmp_path):
    shutil.copytree(tiny_runs.base, tmp_path / "bases" / "grammar" / "30k")
    run = Path(shutil.copytree(directory, tmp_path / "runs" / "one"))
    config = json.loads((run / "config.json").read_text())
    config["base"]["run"] = "elsewhere/bases/grammar/30k"
    (run / "config.json").write_text(json.dumps(config))
    assert load_run(run).base.path == tmp_path / "bases" / "grammar" / "30k"


def test_relative_paths_are_resolved_at_load(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(directory.parent)
    monkeypatch.setenv("HOME", str(directory.parent))
    runs = load_run(directory.name), load_run(f"~/{directory.name}")
    monkeypatch.chdir(tmp_path)
    assert [run.path for run in runs] == [directory, directory]
    assert all(len(run.curves) for run in runs)


def test_other_directories_raise(directory, tiny_runs, tmp_path):
    step = next((directory / "checkpoints").iterdir())
    public = tmp_path / "public"
    public.mkdir()
    (public / "config.json").write_text('{"model_type": "llama"}')
    for path, message in (
        (tmp_path / "x", "no such directory"),
        (directory / "config.json", "is a file; give a directory"),
        (tmp_path, "is not a checkpoint .*; it holds public"),
        (step, "is a checkpoint"),
        (tiny_runs.tokenizer, "is a tokenizer"),
        (public, "is a public model"),
        ("s3://bucket/run", "s3://bucket/run"),
        ("gs://", "gs://"),
    ):
        with pytest.raises(WorkdirError, match=message):
            load_run(path)
    with pytest.raises(WorkdirError, match="is a run"):
        load_study(directory)
    (public / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json: not valid JSON"):
        load_run(public)
