"""Learned metrics: protocol, failures of the program, score cache and environments."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import zipfile

import numpy as np
import pytest

from finetune_scaling.errors import EXIT_FAILED, ConfigError, MetricError, WorkdirError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.learned import environment
from finetune_scaling.metrics.learned.metric import LearnedMetric, read_learned_metric
from finetune_scaling.metrics.registry import metrics_from_flag, score

# A metric program: scores a segment by the length of its hypothesis and logs its requests to a file.
PROGRAM = """
import json, os, sys, time

mode, log = sys.argv[1], sys.argv[2]
if mode == "silent":
    sys.exit(0)
if mode == "hangs first":
    time.sleep(600)
if mode == "no header":
    print("loading the model ...", flush=True)
version = "2" if mode == "newer" else "1"
print(json.dumps({"protocol": 3 if mode == "protocol 3" else 1, "metric": "length", "version": version}), flush=True)
if mode == "never reads":
    time.sleep(600)
requests = [json.loads(line) for line in sys.stdin.buffer]
with open(log, "a") as file:
    file.writelines(json.dumps(request) + "\\n" for request in requests)
print("received", len(requests), file=sys.stderr)
answers = [{"id": r["id"], "score": len(r["hypothesis"]) + 0.5} for r in requests]
if mode == "backwards":
    answers.reverse()
if mode == "too few":
    answers.pop()
if mode == "too many" and answers:
    answers.append({"id": 99, "score": 1})
if mode == "twice":
    answers.append(answers[0])
if mode == "text" and answers:
    answers[-1]["score"] = "high"
if mode == "true" and answers:
    answers[-1]["score"] = True
if mode == "not finite" and answers:
    answers[-1]["score"] = float("nan")
for number, answer in enumerate(answers):
    if mode == "malformed" and number == 2:
        print("{", flush=True)
    if mode == "crashes" and number == 2:
        sys.exit("out of memory")
    if mode == "killed" and number == 2:
        os.kill(os.getpid(), 9)
    if mode == "hangs" and number == 2:
        time.sleep(600)
    print(json.dumps(answer), flush=True)
if mode == "fails at the end":
    sys.exit(4)
"""

CORPUS = Corpus(
    ["", "ein Haus", "das\u2028Haus", "Größe", "Größe"],
    [["a"], ["b", "c"], ["d"], ["e"], ["e"]],
    "de",
    ["s0", "s1", "s2", "s3", "s3"],
)
LENGTHS = [0.5, 8.5, 8.5, 5.5, 5.5]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(mode) returns the metric of the program in that mode, with an empty cache."""
    monkeypatch.setenv(environment.CACHE_VARIABLE, str(tmp_path / "cache"))
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    def learned(mode="plain", **fields):
        command = ("{python}", str(script), mode, str(tmp_path / "requests"))
        return LearnedMetric(**{"name": "length", "command": command, "timeout": 20.0, **fields})

    return learned


@pytest.fixture
def requests(tmp_path):
    """requests() returns the requests that the program has received."""
    return lambda: [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["plain", "backwards"])
def test_scores_are_matched_to_segments_in_any_order(make, requests, mode):
    found = make(mode).segments(CORPUS)
    assert found.values.tolist() == LENGTHS
    assert found.signature == "nrefs:var|metric:length|score:mean-of-segments|version:1"
    assert make(mode).score(CORPUS)["score"] == np.mean(LENGTHS)
    contents = {(r["source"], r["hypothesis"], tuple(r["references"])) for r in requests()}
    assert contents == {
        (source, text, tuple(own))
        for source, text, own in zip(CORPUS.sources, CORPUS.hypotheses, CORPUS.references, strict=True)
    }


def test_no_segment_is_scored_twice(make, requests):
    make().segments(CORPUS)
    assert len(requests()) == 4  # two segments are the same
    assert make().segments(CORPUS).values.tolist() == LENGTHS
    assert len(requests()) == 4
    other_reference = Corpus(CORPUS.hypotheses, [["z"], *CORPUS.references[1:]], "de", CORPUS.sources)
    make().segments(other_reference)
    assert len(requests()) == 5
    make("newer").segments(CORPUS)  # another version of the program is another metric
    assert len(requests()) == 9


def test_learned_and_other_metrics_are_scored_together(make):
    found = score(CORPUS.hypotheses, CORPUS.references, "de", CORPUS.sources, ["bleu", make()])
    assert list(found) == ["bleu", "length"]
    assert found["length"]["score"] == np.mean(LENGTHS)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("silent", "exited without output"),
        ("no header", r"not a JSON object: 'loading the model \.\.\.'"),
        ("protocol 3", "must write the header"),
        ("too few", "answered 3 of 4 requests"),
        ("too many", "answered more than the 4 requests"),
        ("twice", "answered more than the 4 requests"),
        ("text", "not a finite number.*high"),
        ("true", "not a finite number.*true"),
        ("not finite", "not a finite number.*NaN"),
        ("malformed", "not a JSON object: '{'"),
        ("crashes", r"(?s)failed with exit code 1; .*received 4.*out of memory"),
        ("killed", "killed by SIGKILL"),
        ("fails at the end", "failed with exit code 4"),
    ],
)
def test_program_failures_are_reported(make, mode, message):
    with pytest.raises(MetricError, match=message) as raised:
        make(mode).segments(CORPUS)
    assert str(raised.value).startswith("metric length: the command ")
    assert raised.value.exit_code == EXIT_FAILED


@pytest.mark.parametrize("mode", ["hangs first", "hangs"])
def test_a_hanging_program_is_terminated(make, mode):
    began = time.monotonic()
    with pytest.raises(MetricError, match="wrote nothing for 2 s and was terminated"):
        make(mode, timeout=2.0).segments(CORPUS)
    assert time.monotonic() - began < 15


def test_a_program_that_never_reads_requests_is_terminated(make):
    """The sending thread is blocked in this case and holds the pipe open."""
    texts = ["Wort " * 200 + str(i) for i in range(200)]  # more than a pipe holds
    with pytest.raises(MetricError, match="wrote nothing for 1 s and was terminated"):
        make("never reads", timeout=1.0).segments(Corpus(texts, [["r"]] * 200, "de", texts))


@pytest.mark.parametrize("mode", ["crashes", "killed", "hangs", "malformed"])
def test_scores_computed_before_a_failure_are_kept(make, requests, mode):
    with pytest.raises(MetricError):
        make(mode, timeout=2.0).segments(CORPUS)
    assert make().segments(CORPUS).values.tolist() == LENGTHS
    assert len(requests()) == 4 + 2


def test_answers_are_committed_while_the_program_is_running(make, tmp_path):
    """A batch may take minutes: a kill must not lose earlier answers, and other processes must not wait."""
    failed = []

    def run():
        try:
            make("hangs", timeout=2.5).segments(CORPUS)
        except MetricError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    kept = []
    while thread.is_alive() and len(kept) < 2:
        time.sleep(0.05)
        kept = _scores_of_another_process(tmp_path / "cache" / "scores.sqlite")
    assert thread.is_alive()
    assert kept == [(8.5,), (8.5,)]
    thread.join()
    assert len(failed) == 1


def _scores_of_another_process(file):
    """Return the committed scores, or [] if the database is locked or missing."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=0.01)) as database:
            database.execute("BEGIN IMMEDIATE")
            return database.execute("SELECT score FROM scores").fetchall()
    except sqlite3.OperationalError:
        return []


def test_a_missing_command_is_a_config_error(make):
    with pytest.raises(ConfigError, match=r"its command 'no-such-program' cannot be run \(No such file"):
        make(command=("no-such-program", "{model}")).segments(CORPUS)


def test_missing_sources_are_an_error_before_the_program_starts(make, requests, tmp_path):
    with pytest.raises(ConfigError, match="metric length needs sources"):
        make().segments(Corpus(["a"], [["b"]], "de"))
    assert not (tmp_path / "requests").exists()
    assert make(needs_sources=False).segments(Corpus(["a"], [["b"]], "de")).values.tolist() == [1.5]
    assert requests()[0]["source"] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, "metric name 'a b'"),
        ({"command": ()}, "command is empty"),
        ({"command": ("x", "{checkpoint}")}, r"command .*'\{checkpoint\}'.*only"),
        ({"command": ("x", "{")}, "command .*only"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"timeout": 0.0}, "timeout above 0"),
    ],
)
def test_invalid_fields_are_errors(make, fields, message):
    with pytest.raises(ConfigError, match=message):
        make(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def get_config():\n    return {'name': 'm', 'command': ('x',), 'modle': 'y'}",
            r"modle is not .*did you mean 'model'",
        ),
        ("def get_config():\n    return {'name': 'm'}", r"m\.py\.command is missing"),
        ("def get_config():\n    return {'name': 'm', 'command': ('x',), 'timeout': 'long'}", "timeout"),
        ("def get_config():\n    return None", r"m\.py cannot be read"),
        ("def get_config():\n    return 1 / 0", "division by zero"),
        ("def get_config(", r"m\.py cannot be read"),
        (None, r"m\.py cannot be read.*such as configs/metrics/comet\.py"),
    ],
)
def test_invalid_config_files_are_errors(tmp_path, text, message):
    if text is not None:
        (tmp_path / "m.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_learned_metric(str(tmp_path / "m.py"))


def test_a_config_file_defines_a_metric(tmp_path):
    fields = "{'name': 'm', 'command': ('{python}', arg), 'timeout': 5}"
    (tmp_path / "m.py").write_text(f"def get_config(arg='y'):\n    return {fields}")
    (metric,) = metrics_from_flag([f"{tmp_path / 'm.py'}:z,1"])
    assert metric == LearnedMetric("m", ("{python}", "z,1"), timeout=5.0)


def test_a_damaged_cache_is_an_error(make, tmp_path):
    make().segments(CORPUS)
    (tmp_path / "cache" / "scores.sqlite").write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(WorkdirError, match=r"scores\.sqlite: the score cache cannot be used"):
        make().segments(CORPUS)


def test_many_long_segments_pass_through_full_pipes(make):
    texts = [f"{i} " + "Wort " * 200 for i in range(3000)]
    found = make("backwards").segments(Corpus(texts, [["r"]] * 3000, "de", texts))
    assert found.values.tolist() == [len(text) + 0.5 for text in texts]


def test_an_interrupt_kills_the_program_and_its_children_and_keeps_scores(make, tmp_path):
    """Ctrl-C while a program hangs leaves no process running."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, subprocess, sys, time, json
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(json.dumps({"protocol": 1, "metric": "m", "version": "1"}), flush=True)
            first = json.loads(sys.stdin.readline())
            print(json.dumps({"id": first["id"], "score": 1}), flush=True)
            with open(sys.argv[1], "w") as file:
                file.write(f"{os.getpid()} {child.pid}")
            time.sleep(600)
            """
        )
    )
    metric = make(command=("{python}", str(script), str(tmp_path / "pids")), timeout=60.0)

    def interrupt():
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        metric.segments(CORPUS)
    for pid in (tmp_path / "pids").read_text().split():
        _wait_until_gone(int(pid))
    rows = sqlite3.connect(tmp_path / "cache" / "scores.sqlite").execute("SELECT score FROM scores").fetchall()
    assert rows == [(1.0,)]


def _wait_until_gone(pid):
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


@pytest.fixture
def package(tmp_path):
    """A package that pip installs without a network or a build: a wheel made by hand."""
    wheel = tmp_path / "tinymetric-1.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinymetric.py", "def score(text):\n    return len(text) / 2\n")
        info = "tinymetric-1.5.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinymetric\nVersion: 1.5\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.mark.slow
def test_an_environment_is_created_once_and_again_if_incomplete(make, package, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    script = tmp_path / "own.py"
    script.write_text(
        "import json, sys\nfrom importlib.metadata import version\nimport tinymetric\n"
        'print(json.dumps({"protocol": 1, "metric": "tiny", "version": version("tinymetric")}), flush=True)\n'
        "for line in sys.stdin:\n    r = json.loads(line)\n"
        '    print(json.dumps({"id": r["id"], "score": tinymetric.score(r["hypothesis"])}))\n'
    )
    metric = make(command=("{python}", str(script)), requirements=(str(package),))
    assert metric.segments(CORPUS).values.tolist() == [0, 4, 4, 2.5, 2.5]
    assert "version:1.5" in metric.segments(CORPUS).signature
    folders = [path for path in (tmp_path / "cache" / "environments").iterdir() if path.is_dir()]
    assert len(folders) == 1
    record = json.loads((folders[0] / "complete.json").read_text())
    assert any("tinymetric" in line for line in record["packages"])

    made = (folders[0] / "complete.json").stat().st_mtime_ns
    python = environment.metric_interpreter("tiny", [str(package)])
    assert (folders[0] / "complete.json").stat().st_mtime_ns == made
    (folders[0] / "complete.json").unlink()  # as after a kill
    (folders[0] / "bin" / "python").unlink()
    assert environment.metric_interpreter("tiny", [str(package)]) == python
    assert subprocess.run([python, "-c", "import tinymetric"]).returncode == 0


def test_pips_output_is_shown_if_an_environment_cannot_be_created(make, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    metric = make(requirements=("no-such-package-anywhere==1",))
    with pytest.raises(MetricError, match=r"(?s)its environment cannot be created.*no-such-package-anywhere"):
        metric.segments(CORPUS)


def test_the_cache_directory_is_configurable(monkeypatch, tmp_path):
    monkeypatch.delenv(environment.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.metrics_cache() == tmp_path / "finetune_scaling" / "metrics"
    monkeypatch.setenv(environment.CACHE_VARIABLE, str(tmp_path / "own"))
    assert environment.metrics_cache() == tmp_path / "own"
    monkeypatch.setenv(environment.CACHE_VARIABLE, "gs://bucket/cache")
    with pytest.raises(WorkdirError, match="local directories only"):
        environment.metrics_cache()


def test_isolated_environments_get_no_python_path_variables(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "PYTHONPATH" not in environment.metric_variables(isolated=True)
    assert environment.metric_variables(isolated=False)["PYTHONPATH"] == "/elsewhere"
    assert environment.metric_interpreter("any", ()) == environment.Path(sys.executable)
