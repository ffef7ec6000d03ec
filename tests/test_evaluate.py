"""The evaluate command: scores and rows of runs, and files of segments."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu

from finetune_scaling.experiments.run import run
from finetune_scaling.runs.run_directory import RunDirectory

run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]
METRICS = {"bleu", "chrf", "chrf++", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum"}


def evaluate(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune_scaling.evaluate", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(tiny_runs, tmp_path_factory) -> Path:
    """Return a finished run that decoded 5 of its 20 test examples."""
    folder = tmp_path_factory.mktemp("trained")
    base = shutil.copytree(tiny_runs.base, folder / "base")  # its records are written to it
    changes = {"base": {"run": str(base)}, "evaluation": {"generate_examples": 5}}
    run(tiny_runs.config("prompt", **changes), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_scores_of_a_run_equal_its_result(trained, tmp_path):
    out = tmp_path / "scores.json"
    flags = [f"--workdir={trained}", f"--out={out}", "--generate=5"]
    by_rows = [f"--rows={tmp_path / 'scores.test.jsonl'}", f"--out={tmp_path / 'again.json'}"]
    done, again, rescored = run_in_one_process("finetune_scaling.evaluate", [flags, flags, by_rows])
    assert (done.returncode, done.stderr) == (0, "")
    assert again == done  # the record exists
    assert rescored.returncode == 0, rescored.stderr
    scores, record = json.loads(out.read_text()), RunDirectory(trained).result
    assert scores["metrics"].keys() == METRICS
    assert all(entry.keys() - {"note"} == {"score", "signature"} for entry in scores["metrics"].values())
    assert {"loss": scores["loss"], "entropy": scores["entropy"]} == {k: record[k] for k in ("loss", "entropy")}
    assert scores["splits"]["test"] == record["tests"]["test"]
    printed = json.loads(done.stdout)
    assert printed["metrics"] == {n: entry["score"] for n, entry in scores["metrics"].items()}
    assert printed["untuned"]["loss"] == scores["untuned"]["loss"] != scores["loss"]
    assert printed["copy"]["metrics"]["bleu"] == scores["baselines"]["copy"]["metrics"]["bleu"]["score"]

    written = (tmp_path / "scores.test.jsonl").read_text()
    assert written == (trained / "evaluation" / "test.jsonl").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert [row["index"] for row in rows] == list(range(20))
    assert ["hypothesis" in row for row in rows] == [True] * 5 + [False] * 15
    assert json.loads((tmp_path / "again.json").read_text())["metrics"] == scores["metrics"]
    bleu = sacrebleu.corpus_bleu([row["hypothesis"] for row in rows[:5]], [[row["reference"] for row in rows[:5]]])
    assert scores["metrics"]["bleu"]["score"] == bleu.score


@pytest.mark.slow
def test_scores_do_not_depend_on_devices_and_attention_implementation(trained, tmp_path, monkeypatch):
    """Score with two devices a run that was trained on one."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", flags)
    out = tmp_path / "scores.json"
    done = evaluate(f"--workdir={trained}", f"--out={out}", "--fsdp=2", "--attention=blockwise", "--generate=5")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["loss"] == pytest.approx(RunDirectory(trained).result["loss"], rel=1e-5)


@pytest.mark.slow
def test_another_split_number_of_examples_and_checkpoint(trained):
    done = evaluate(f"--workdir={trained}", "--split=dev", "--examples=7", "--generate=0", "--step=12")
    assert (done.returncode, done.stderr) == (0, "")
    scores = json.loads((trained / "evaluation" / "dev.json").read_text())
    assert (scores["splits"]["dev"]["examples"], scores["splits"]["dev"]["generated"]) == (7, 0)
    assert len((trained / "evaluation" / "dev.dev.jsonl").read_text().splitlines()) == 7
    assert json.loads(done.stdout)["metrics"] == {}


def test_plain_files(tmp_path):
    hypotheses = write(tmp_path / "hyp", "Das ist ein Test .", "", "noch ein Satz")
    first = write(tmp_path / "ref1", "Das ist ein Test .", "Leer ist auch etwas", "noch ein ganzer Satz")
    second = write(tmp_path / "ref2", "Dies ist ein Test .", "Auch das", "noch ein Satz hier")
    out = tmp_path / "new" / "scores.json"
    done = evaluate(
        f"--hypotheses={hypotheses}", f"--references={first},{second}", "--target-language=de", f"--out={out}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    scores = json.loads(out.read_text())["metrics"]
    assert scores.keys() == METRICS
    texts = [Path(path).read_text().split("\n")[:-1] for path in (hypotheses, first, second)]
    assert scores["bleu"]["score"] == sacrebleu.corpus_bleu(texts[0], texts[1:]).score
    assert "nrefs:2" in scores["bleu"]["signature"]
    assert 0 < scores["rougeL"]["score"] < 100  # the empty hypothesis counts
    assert json.loads(done.stdout)["metrics"]["ter"] == scores["ter"]["score"]
    assert "equals rougeL" in json.loads(done.stdout)["notes"]["rougeLsum"]


def test_selected_and_learned_metrics(tmp_path, monkeypatch):
    """The metric program scores half the number of characters."""
    monkeypatch.setenv("FINETUNE_SCALING_METRICS_CACHE", str(tmp_path / "cache"))
    program = tmp_path / "half.py"
    program.write_text(
        "import json, sys\n"
        'print(json.dumps({"protocol": 1, "metric": "half", "version": "7"}), flush=True)\n'
        "for request in map(json.loads, sys.stdin):\n"
        '    print(json.dumps({"id": request["id"], "score": len(request["hypothesis"]) / 2}), flush=True)\n'
    )
    config = tmp_path / "metric.py"
    fields = {"name": "half", "command": ("{python}", str(program)), "needs_sources": False}
    config.write_text(f"def get_config():\n    return {fields}\n")
    hypotheses, references = write(tmp_path / "hyp", "a b c", "d"), write(tmp_path / "ref", "a b c", "d e f")
    flags = [f"--hypotheses={hypotheses}", f"--references={references}", "--target-language=en"]
    done = evaluate(*flags, f"--metrics=chrf++,rougeL-stem,f1,{config}", f"--out={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert list(scores) == ["chrf++", "rougeL-stem", "f1", "half"]
    assert scores["half"] == {"score": 1.5, "signature": "nrefs:1|metric:half|score:mean-of-segments|version:7"}
    chrf = sacrebleu.CHRF(word_order=2).corpus_score(["a b c", "d"], [["a b c", "d e f"]])
    assert scores["chrf++"]["score"] == chrf.score
    assert json.loads(done.stdout)["metrics"]["half"] == 1.5


def test_errors_are_one_line_and_exit_with_2(tiny_runs, trained, tmp_path):
    one, two = write(tmp_path / "one", "a"), write(tmp_path / "two", "a", "b")
    broken = Path(shutil.copytree(trained, tmp_path / "broken"))
    for step in ("4", "8", "12"):
        shutil.rmtree(broken / "checkpoints" / step, ignore_errors=True)
    metric = tmp_path / "gone.py"
    metric.write_text("def get_config():\n    return {'name': 'gone', 'command': ('/no/such/program',)}\n")
    files = ["--target-language=de", f"--out={tmp_path / 'out.json'}"]
    errors = [
        ([], "give exactly one of --workdir"),
        ([f"--hypotheses={one}", f"--references={two}", *files], "two"),
        ([f"--hypotheses={one}", f"--references={one}", "--target-language=de"], "--out is missing"),
        ([f"--hypotheses={one}", f"--references={one}", *files, "--metrics=bleu,chrff"], "did you mean 'chrf'"),
        ([f"--rows={one}", f"--references={one}", *files], "--references is for files"),
        ([f"--rows={trained}/evaluation/test.jsonl", *files], "no row has target language 'de'; give one of B"),
        ([f"--workdir={tmp_path}"], "not the directory of a run"),
        ([f"--workdir={tiny_runs.base}"], "a pretraining run has no task"),
        ([f"--workdir={trained}", "--split=tset"], "tset"),
        ([f"--workdir={trained}", "--generate=1", f"--metrics=bleu,{metric}"], "'/no/such/program' cannot be run; ins"),
        ([f"--workdir={broken}"], "no checkpoint"),
        ([f"--workdir={trained}", "--evaluators=few_shots_1"], "'few_shots_1'; did you mean 'few_shot_1'"),
        ([f"--workdir={trained}", "--evaluators="], "--evaluators is empty; name at least one"),
        ([f"--workdir={trained}", "--evaluators=few_shot_5"], "more than the model's context"),
        ([f"--workdir={trained}", "--evaluators=few_shot_1", "--split=dev"], "--split is for the run's own splits"),
        ([f"--workdir={tmp_path / 'no*'}"], "matches no directory"),
        (
            [f"--workdir={trained},{trained.parent}/*un", "--evaluators=dev,test", *files[1:]],
            "--out is for a single evaluation",
        ),
        ([f"--study={tmp_path}"], "not the directory of a study"),
        ([f"--workdir={trained}", "--config=tests/tiny.py:study"], "--config is a study's config"),
        ([f"--study={tmp_path}", "--split=dev"], "--split is for a run"),
        ([f"--workdir={trained}", "--index=1"], "--index=1 must be below --of=1"),
        (["--evaluators=dev", f"--hypotheses={one}", f"--references={one}", *files], "--evaluators is for a run"),
    ]
    results = run_in_one_process("finetune_scaling.evaluate", [flags for flags, _ in errors])
    for (flags, expected), done in zip(errors, results, strict=True):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), (flags, done.stderr)
        assert done.stderr.startswith("error: ")
        assert expected in done.stderr, (flags, done.stderr)
    assert not (tmp_path / "out.json").exists()
