"""Paths that users give: one function resolves them, in flags, configs and calls."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import finetune_scaling
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import ConfigError, UserError
from finetune_scaling.evaluation.example_rows import read_rows
from finetune_scaling.experiments.run import run
from finetune_scaling.files import absolute, location
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.metrics.corpus import read_segments
from finetune_scaling.paths import user_path
from finetune_scaling.reading import load_run, load_study
from finetune_scaling.runs.model_loading import find_run, load_base

PACKAGE = Path(finetune_scaling.__file__).parent
SCRIPTS = sorted(PACKAGE.glob("*.py"))
COMMANDS = [path for path in SCRIPTS if "    command.run(main" in path.read_text(encoding="utf-8")]
# Flags with paths among other things (NAME=FILE, metrics by name or file), and names that default to parts of paths.
NO_PATHS = {("compare", "systems"), ("compare", "runs"), ("evaluate", "metrics"), ("samples", "names")}


@pytest.mark.parametrize(
    ("given", "path"),
    [("~/x", "/home/me/x"), ("~", "/home/me"), ("~root/x", "/root/x"), ("a/~/b", "a/~/b"), ("gs://b/~x", "gs://b/~x")],
)
def test_home_directories_are_expanded(given, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path(given) == path == user_path(Path(given) if "://" not in given else given)


def test_an_unknown_user_is_an_error():
    with pytest.raises(ConfigError, match="there is no user 'nobody-here'"):
        user_path("~nobody-here/x")


@pytest.mark.parametrize("given", ["a" * 256, "runs/" + "ä" * 128 + "/one", "a\0b"])
def test_a_path_that_no_file_system_has_is_refused(given):
    with pytest.raises(ConfigError, match="Fix: give another path"):
        user_path(given)
    assert user_path("/".join(["a" * 255] * 3)) == "/".join(["a" * 255] * 3)


def test_a_local_name_that_begins_with_a_tilde_is_not_expanded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given in ("./~", ".//~root/x", "a/../~nobody-here"):
        path = os.path.abspath(given)
        assert user_path(given) == user_path(Path(user_path(given))) == path
        assert str(location(location(given))) == path


def test_absolute_paths_do_not_depend_on_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for keep_links, name in ((True, "link"), (False, "target")):
        assert absolute("link/./a", keep_links=keep_links) == tmp_path / name / "a"
        assert absolute("~/../b", keep_links=keep_links) == tmp_path / "b"
        assert str(absolute("gs://bucket/x", keep_links=keep_links)) == "gs://bucket/x"


READERS = {
    "load_run": (load_run, "is a public model"),
    "load_study": (load_study, "is a public model"),
    "find_run": (find_run, "is a public model"),
    "load_base": (load_base, "is a public model"),
    "run": (lambda path: run({"base": {"run": path}}, "out"), "is a public model"),
    "load_model": (load_model, "'none-such'"),
    "import_model": (lambda path: import_model(ModelImport(path, "out")), "'none-such'"),
    "import_adapter": (lambda path: import_adapter(AdapterImport("adapter", path, "out")), "is a public model"),
    "export_run": (lambda path: export_run(RunExport(path, model="out")), "is a public model"),
    "load_tokenizer": (lambda path: load_tokenizer(f"{path}/tokenizer"), "tokenizer.model: no such"),
    "read_points": (read_points, "points.csv line 1"),
    "read_segments": (lambda path: read_segments(f"{path}/empty.txt"), "the file is empty"),
    "read_rows": (lambda path: read_rows(f"{path}/rows.jsonl"), "rows.jsonl, line 1"),
}


@pytest.mark.parametrize("reader", READERS)
def test_python_calls_expand_home_directories(reader, monkeypatch, tmp_path):
    """Each call raises the error about a file's content, not that it is missing."""
    read, error = READERS[reader]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "tokenizer").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "none-such"}')
    (tmp_path / "model" / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "points.csv").write_text("a\n1\n")
    (tmp_path / "model" / "rows.jsonl").write_text("[]\n")
    (tmp_path / "model" / "empty.txt").write_text("")
    with pytest.raises(UserError, match=error):
        read("~/model")


def text_flags(script: Path) -> dict[str, str]:
    """Return name and help of the flags of a command that absl defines as texts or lists of texts."""
    found = {}
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and re.fullmatch(r"flags\.DEFINE_(multi_)?(string|list)", ast.unparse(node.func)):
            found[ast.literal_eval(node.args[0])] = ast.unparse(node.args[2])
    return found


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_every_flag_that_names_a_path_is_a_path_flag(script):
    for name, text in text_flags(script).items():
        names_path = re.search(r"\b(director(y|ies)|files?|DIR|FILE|paths?)\b", text)
        assert (script.stem, name) in NO_PATHS or not names_path, f"--{name} is a path: define it with path_flag"


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_no_command_makes_a_local_path_of_a_url(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path":
            pytest.fail(f"{script}, line {node.lineno}: {ast.unparse(node)}; call location or local_path")


def test_the_package_reads_no_file_of_the_checkout():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                relative = re.fullmatch(r"(configs|docs|launch|benchmarks)(/[\w./-]*)?", node.value)
                assert not relative, f"{path}, line {node.lineno}: {node.value} is not part of an installed package"


PLAN = ("finetune_scaling.plan", "--config=~/run.py", "--topology=h100:8", "--prices.h100.spot=2.0")
CONFIG = f"""
import runpy
def get_config():
    return runpy.run_path({str(PACKAGE.parent / "configs/finetune/wmt14_en_de.py")!r})["get_config"]("1b,lora")
"""


def test_plan_works_in_any_directory_with_files_below_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "run.py").write_text(CONFIG)
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-m", *PLAN], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cost on demand" in done.stdout
    assert "2.0 per chip-hour" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
