"""The compare command: files and runs, table and JSON, and errors."""

import json
import random
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from finetune_scaling import compare as compare_command
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.evaluation.comparison import LOSSES, compare, systems_from_runs, table
from finetune_scaling.metrics.registry import find_metric
from finetune_scaling.metrics.significance import Procedure, RatioScore, compare_ratios

run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]
REFERENCES = [f"das Haus Nummer {k} steht am See , und Baum {k * 7} daneben" for k in range(25)]


def run_compare(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "finetune_scaling.compare", *flags], capture_output=True, text=True)


def worsened(share: float, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(word for word in text.split() if draw.random() > share) for text in REFERENCES]


def write(path, segments) -> str:
    path.write_text("".join(f"{segment}\n" for segment in segments), encoding="utf-8")
    return str(path)


def write_rows(run, texts, losses, **changes) -> str:
    """Write the rows of a scored run and return its directory."""
    rows = [
        {
            "index": k,
            "loss_sum": float(loss),
            "tokens": 10 + k % 3,
            "bytes": len(reference.encode()),
            "source": f"source {k}",
            "reference": reference,
            "hypothesis": text,
        }
        | {name: change(k) for name, change in changes.items()}
        for k, (reference, text, loss) in enumerate(zip(REFERENCES, texts, losses, strict=True))
    ]
    (run / "evaluation").mkdir(parents=True)
    write(run / "evaluation" / "test.jsonl", [json.dumps(row) for row in rows])
    return str(run)


def test_files(tmp_path):
    base, tuned = worsened(0.4, 1), worsened(0.05, 2)
    files = {name: write(tmp_path / name, texts) for name, texts in {"base": base, "tuned": tuned}.items()}
    references = write(tmp_path / "ref", REFERENCES)
    out = tmp_path / "new" / "out.json"
    done = run_compare(
        "--systems=" + ",".join(f"{name}={path}" for name, path in files.items()),
        f"--references={references}",
        "--target-language=de",
        "--metrics=bleu,ter,rougeL,exact_match",
        "--samples=300",
        "--seed=5",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["procedure"] == {"test": "randomization", "samples": 300, "seed": 5, "interval_resamples": 1000}
    assert (result["baseline"], result["segments"], result["confidence"]) == ("base", 25, 0.95)
    first, second = result["systems"]
    assert [system["name"] for system in (first, second)] == ["base", "tuned"]
    assert first["metrics"]["bleu"]["score"] == sacrebleu.corpus_bleu(base, [REFERENCES]).score
    assert second["metrics"]["bleu"]["score"] == sacrebleu.corpus_bleu(tuned, [REFERENCES]).score
    assert "|ar:300|seed:5|" in second["metrics"]["bleu"]["signature"]
    assert second["metrics"]["rougeL"]["signature"].startswith("ar:300|bs:1000|seed:5|nrefs:1|")
    assert "p_value" not in first["metrics"]["bleu"]
    entries = second["metrics"]
    assert entries["ter"]["difference"] == entries["ter"]["score"] - first["metrics"]["ter"]["score"] < 0
    assert {name: entry["lower_is_better"] for name, entry in entries.items()} == {
        "bleu": False, "ter": True, "rougeL": False, "exact_match": False,
    }  # fmt: skip
    assert all(entry["low"] <= entry["mean"] <= entry["high"] for entry in entries.values())
    smallest = min(entry["p_value"] for entry in entries.values())
    assert min(entry["p_holm"] for entry in entries.values()) == pytest.approx(4 * smallest)
    assert done.stdout.rstrip("\n") == table(result)
    assert "ter (lower is better)" in done.stdout
    assert done.stdout.count("*") >= 3  # the significant rows, and the note


def test_a_single_system_gets_intervals(tmp_path):
    files = write(tmp_path / "hyp", worsened(0.2, 1)), write(tmp_path / "ref", REFERENCES)
    result_file = tmp_path / "out.json"
    done = run_compare(
        f"--systems=one={files[0]}", f"--references={files[1]}", "--target-language=de", "--metrics=chrf",
        "--test=bootstrap", f"--out={result_file}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entry = json.loads(result_file.read_text())["systems"][0]["metrics"]["chrf"]
    assert entry["low"] < entry["score"] < entry["high"]
    assert "p_value" not in entry
    assert "Holm)" not in done.stdout.splitlines()[-1]


def test_runs_are_compared_by_their_rows(tmp_path):
    draw = np.random.default_rng(0)
    losses = draw.uniform(10, 30, 25)
    other = losses - draw.uniform(0, 2, 25)
    runs = {
        "full": write_rows(tmp_path / "full", worsened(0.3, 1), losses),
        "lora": write_rows(tmp_path / "lora", worsened(0.1, 2), other),
    }
    systems = systems_from_runs(runs, "test", "de")
    procedure = Procedure("randomization", 500, 3)
    result = compare(systems, ["loss", "loss_per_byte", find_metric("bleu")], procedure)
    tokens = np.array([10 + k % 3 for k in range(25)], float)
    expected = compare_ratios([RatioScore(losses, tokens), RatioScore(other, tokens)], procedure)
    for system, outcome in zip(result["systems"], expected, strict=True):
        assert system["metrics"]["loss"]["score"] == outcome.score
        assert system["metrics"]["loss"].get("p_value") == outcome.p_value
    size = sum(len(text.encode()) for text in REFERENCES)
    assert result["systems"][0]["metrics"]["loss_per_byte"]["score"] == pytest.approx(losses.sum() / size)
    assert result["systems"][1]["metrics"]["loss"]["lower_is_better"]
    assert result["systems"][1]["metrics"]["loss"]["signature"] == "ar:500|bs:1000|seed:3|unit:nats/token"
    assert result["systems"][0]["metrics"]["bleu"]["score"] == pytest.approx(
        sacrebleu.corpus_bleu(worsened(0.3, 1), [REFERENCES]).score
    )
    assert set(LOSSES) == {"loss", "loss_per_byte"}


def test_texts_in_one_language_and_losses_of_all_rows_are_compared(tmp_path):
    def languages(k):
        return "zho_Hans" if k % 5 == 4 else "de"

    runs = {
        name: write_rows(tmp_path / name, worsened(0.3, seed), np.ones(25) * seed, target_language=languages)
        for name, seed in (("full", 1), ("lora", 2))
    }
    german = [k for k in range(25) if k % 5 != 4]
    metrics = ["loss", find_metric("bleu"), find_metric("rougeL")]
    (first, _) = compare(systems_from_runs(runs, "test", "de"), metrics, Procedure("randomization", 50))["systems"]
    texts, references = ([some[k] for k in german] for some in (worsened(0.3, 1), REFERENCES))
    assert first["metrics"]["bleu"]["score"] == sacrebleu.corpus_bleu(texts, [references]).score
    assert first["metrics"]["loss"]["score"] == 25 / sum(10 + k % 3 for k in range(25))
    (chinese, _) = systems_from_runs(runs, "test", "zh")
    assert chinese.corpus.references == [[REFERENCES[k]] for k in range(4, 25, 5)]
    with pytest.raises(DataError, match=r"test\.jsonl: no row has target language 'fr'; give one of de, zho_Hans"):
        systems_from_runs(runs, "test", "fr")


@pytest.mark.parametrize(
    ("changes", "metric", "message"),
    [
        ({"reference": lambda k: "other" if k == 4 else REFERENCES[k]}, "bleu", r"line 5: reference 'other' differs"),
        ({"tokens": lambda k: 11}, "loss", r"line 1: 11 tokens, but 10 .*use loss_per_byte"),
        ({"hypothesis": lambda k: 3 if k == 2 else "x"}, "bleu", r"test\.jsonl, line 3: hypothesis is 3"),
    ],
)
def test_runs_that_cannot_be_compared_are_errors(tmp_path, changes, metric, message):
    base = write_rows(tmp_path / "base", REFERENCES, np.ones(25))
    other = write_rows(tmp_path / "other", REFERENCES, np.ones(25), **changes)
    chosen = metric if metric in LOSSES else find_metric(metric)
    with pytest.raises(DataError, match=message):
        compare(systems_from_runs({"a": base, "b": other}, "test", "de"), [chosen], Procedure(samples=10))


def test_rows_without_required_fields_are_errors(tmp_path):
    base = write_rows(tmp_path / "base", REFERENCES, np.ones(25))
    rows = tmp_path / "base" / "evaluation" / "test.jsonl"
    rows_before = [json.loads(line) for line in rows.read_text().splitlines()]

    def rewritten(*without):
        write(rows, [json.dumps({k: v for k, v in row.items() if k not in without}) for row in rows_before])
        return systems_from_runs({"base": base}, "test", "de")

    with pytest.raises(DataError, match="no row has a hypothesis, so bleu cannot"):
        compare(rewritten("hypothesis"), [find_metric("bleu")], Procedure(samples=10))
    with pytest.raises(DataError, match="loss_per_byte needs the field 'bytes'"):
        compare(rewritten("bytes"), ["loss_per_byte"], Procedure(samples=10))
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: the field 'loss_sum' is missing"):
        rewritten("loss_sum")
    rows.write_text('{"source": "a"\n')
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: invalid JSON"):
        systems_from_runs({"base": base}, "test", "de")
    with pytest.raises(DataError, match=r"dev\.jsonl: cannot be read .*available splits: test"):
        systems_from_runs({"base": base}, "dev", "de")


def test_errors_are_one_line_and_exit_with_2(tmp_path):
    hypotheses, two = write(tmp_path / "hyp", ["a"]), write(tmp_path / "two", ["a", "b"])
    out = tmp_path / "out.json"
    common = ["--target-language=de", f"--out={out}"]
    files = [f"--systems=a={hypotheses}", f"--references={hypotheses}"]
    errors = [
        (common, "give either --systems and --references to compare files, or --runs"),
        ([*files, f"--out={out}"], "--target-language is missing"),
        ([f"--systems=a={hypotheses},b={two}", f"--references={hypotheses}", *common], "has 2"),
        ([f"--runs={tmp_path}", f"--references={hypotheses}", *common], "--references is for files"),
        ([*files, *common, "--split=dev"], "--split is for runs"),
        ([*files, *common, "--seed=0"], "seed"),
    ]
    results = run_in_one_process("finetune_scaling.compare", [flags for flags, _ in errors])
    for (flags, expected), done in zip(errors, results, strict=True):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), (flags, done.stderr)
        assert expected in done.stderr, (flags, done.stderr)
    assert not out.exists()


@pytest.mark.parametrize(
    ("values", "name_needed", "message"),
    [
        (["hyp.txt"], True, "'hyp.txt' is not of the form NAME=FILE"),
        (["a=x", "a=y"], True, "the name a is used twice"),
        (["runs/a", "other/a/"], False, "the name a is used twice"),
        (["=x"], True, "has an empty name or path"),
        (["a="], True, "has an empty name or path"),
    ],
)
def test_invalid_names_are_errors(values, name_needed, message):
    with pytest.raises(ConfigError, match=message):
        compare_command._parse_paths(values, "systems", name_needed)


@pytest.mark.parametrize(
    ("names", "losses", "message"),
    [
        (["blue"], True, "did you mean 'bleu'"),
        (["bleu", "bleu"], True, "bleu is given twice"),
        (["loss"], False, "loss is for runs"),
        ([], True, "--metrics is empty"),
        (["nowhere.py"], True, "nowhere.py cannot be read"),
    ],
)
def test_invalid_metrics_are_errors(names, losses, message):
    with pytest.raises(ConfigError, match=message):
        compare_command._select_metrics(names, losses)


def test_a_run_is_named_after_its_directory_by_default():
    assert compare_command._parse_paths(["runs/a/", "b=runs/c"], "runs", False) == {"a": "runs/a/", "b": "runs/c"}
    assert [m if isinstance(m, str) else m.name for m in compare_command._select_metrics(["loss", "f1"], True)] == [
        "loss",
        "f1",
    ]
