"""Notebooks run from top to bottom and show their results; as committed they have no outputs and one address."""

import hashlib
import html
import importlib.util
import os
import re
import runpy
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from finetune_scaling.errors import ConfigError
from finetune_scaling.reading import load_study
from finetune_scaling.studies.grid import read_study, runs

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "launch" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICKSTART, READ, GENERATE, RECOMMEND = NOTEBOOKS
LONGEST_CELL = 15  # lines
SECONDS = 300


class Executed(NamedTuple):
    """Outputs of a notebook: texts, frames as HTML, number of pictures, and warnings of libraries."""

    texts: str
    frames: list[str]
    pictures: int
    complaints: str


@pytest.fixture(scope="module")
def environment(shared_cache, tmp_path_factory) -> dict[str, str]:
    """The environment that points all notebooks to one tiny study, which the first one runs."""
    study = tmp_path_factory.mktemp("notebooks") / "a study"
    return {
        **os.environ,
        "FINETUNE_SCALING_CONFIG": f"{ROOT / 'tests' / 'tiny.py'}:notebook",
        "FINETUNE_SCALING_STUDY": str(study),
        "FINETUNE_SCALING_TABLES": str(study),
        "FINETUNE_SCALING_POINTS": str(study / "points.csv"),
        "JAX_COMPILATION_CACHE_DIR": str(shared_cache),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def quickstart(environment) -> Executed:
    """The first notebook, executed."""
    return execute(QUICKSTART, environment)


def execute(path: Path, environment: dict[str, str], last: str | None = None) -> Executed:
    """Run a notebook in its own kernel and folder. Raises if a cell fails.

    last: id of the cell after which to stop.
    """
    notebook = nbformat.read(path, as_version=4)
    if last is not None:
        notebook.cells = notebook.cells[: [cell.id for cell in notebook.cells].index(last) + 1]
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(FOLDER)}})
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output["data"] for output in outputs if "data" in output]
    streams = {name: "".join(o["text"] for o in outputs if o.get("name") == name) for name in ("stdout", "stderr")}
    return Executed(
        streams["stdout"],
        [one["text/html"] for one in data if "text/html" in one],
        sum("image/png" in one for one in data),
        streams["stderr"],
    )


def contents(directory: Path) -> dict[str, str]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(frame: str) -> int:
    """Return the number of rows of a displayed frame without its header."""
    return frame.count("<tr>") + frame.count("<tr style") - 1


@pytest.mark.slow
def test_quickstart_runs_a_study_and_shows_it(quickstart, environment):
    study = load_study(environment["FINETUNE_SCALING_STUDY"])
    assert set(study.runs["state"]) == {"done"}
    losses, samples, report = quickstart.frames
    for loss in study.runs["loss"]:
        assert f"<td>{loss:.3f}</td>" in losses
    best = study.run(study.runs["loss"].idxmin()).samples()
    assert all(html.escape(text) in samples for text in best["hypothesis"].dropna().head(3))
    assert html.escape(study.report.html) in report
    assert quickstart.complaints == ""


@pytest.mark.slow
def test_read_a_study(quickstart, environment):
    study = load_study(environment["FINETUNE_SCALING_STUDY"])
    before = contents(study.path)
    shown = execute(READ, environment)
    assert shown.pictures == 2
    runs, losses, samples, scores, bases, parameters, predictions = shown.frames
    assert study.runs.index[0] in runs
    assert f"<td>{study.runs['loss'].min():.3f}</td>" in losses
    assert "<th>lora</th>" in samples
    assert "nrefs:1|case:mixed" in scores
    assert rows(bases) >= 2
    assert "alpha_model" in parameters
    assert {method for method in ("full", "lora") if f"<td>{method}</td>" in predictions} == {"full", "lora"}
    assert "multiplicative, translation, full" in shown.texts
    assert shown.complaints == ""
    assert contents(study.path) == before


@pytest.mark.slow
def test_read_an_unfinished_study(quickstart, environment, tmp_path):
    copy = Path(shutil.copytree(environment["FINETUNE_SCALING_STUDY"], tmp_path / "study"))
    first, *others = load_study(copy).runs.index
    (copy / "runs" / first / "result.json").unlink()
    for key in others:
        if "/lora/" in key:  # a method whose runs have not started
            shutil.rmtree(copy / "runs" / key)
    for made_at_the_end in ("points.csv", "study.json"):
        (copy / made_at_the_end).unlink()
    shown = execute(READ, environment | {"FINETUNE_SCALING_STUDY": str(copy)}, "read-a-study-17")
    runs, losses, samples, *_ = shown.frames
    assert "<td>started</td>" in runs
    assert f"<td>{load_study(copy).runs['loss'].min():.3f}</td>" in losses
    assert "<th>full</th>" in samples
    assert "<th>lora</th>" not in samples
    assert shown.complaints == ""


@pytest.mark.slow
def test_generate_reproduces_the_scored_hypotheses(quickstart, environment):
    study = load_study(environment["FINETUNE_SCALING_STUDY"])
    before = contents(study.path)
    shown = execute(GENERATE, environment)
    written, others, base, leaves = shown.frames
    run = study.run(study.runs.query("method == 'lora'")["loss"].idxmin())
    hypotheses = list(run.samples()["hypothesis"].head(6))
    assert [f"<td>{html.escape(text)}</td>" in written for text in hypotheses] == [True] * 6
    assert len(set(hypotheses)) > 1
    assert "<th>sampled</th>" in others
    assert "continuation by the base model" in base
    assert "lora_a" in leaves
    assert shown.complaints == ""
    assert contents(study.path) == before


@pytest.mark.slow
def test_recommend(quickstart, environment):
    shown = execute(RECOMMEND, environment)
    assert re.search(r"translation, 2,000 finetuning examples.*\n +verdict +\S", shown.texts)
    assert shown.pictures == 1
    points, mine = shown.frames
    assert rows(points) == 5
    assert rows(mine) == 4
    assert shown.complaints == ""


@pytest.mark.slow
def test_examples_of_docs_reading_run(quickstart, environment, capsys):
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    tiny = environment["FINETUNE_SCALING_STUDY"]
    scope: dict[str, Any] = {}
    exec(code.replace("runs/quickstart", tiny).replace("docs/debian_evaluated", tiny), scope)
    study, best = load_study(tiny), scope["best"]
    assert best.loss == study.runs["loss"].min()
    assert scope["table"].shape == (4, 3)
    assert scope["unfinished"].empty
    assert list(scope["curve"]) == list(best.result["dev_losses"].values())
    assert len(scope["texts"]) == 2
    assert len(scope["by_beam_search"]) == len(scope["continued"]) == 1
    assert scope["signed"]["signature"].notna().any()
    assert scope["figure"].axes
    printed = capsys.readouterr().out
    assert printed.startswith(f"{best.method['name']} {best.loss}")
    assert "verdict" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_have_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    before = notebook.cells[0]
    for cell in notebook.cells[1:]:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert before.cell_type == "markdown", f"no word of why before {cell.source!r}"
            assert len(cell.source.splitlines()) <= LONGEST_CELL
        before = cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_mentioned_files_exist(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    for mentioned in re.findall(r"(?:docs|configs)/[\w/.]+\w|(?<=\()\w+\.ipynb", text):
        place = FOLDER if mentioned.endswith(".ipynb") else ROOT
        assert (place / mentioned).exists(), mentioned


@pytest.mark.parametrize("path", [QUICKSTART, READ, GENERATE], ids=lambda path: path.stem)
def test_the_study_is_a_subset_of_the_quickstart(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    file, extent = re.search(r'"(configs/study/\w+\.py):(\w+)"', text).groups()
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    short, whole = ({run.directory for run in runs(read_study(get_config(*a)))} for a in ((extent,), ()))
    assert short < whole
    with pytest.raises(ConfigError, match=r"quickstart\.py:long: .*complete, short"):
        get_config("long")


class Shell:
    """Replaces IPython: emulates `git clone` for a known address and records the commands."""

    def __init__(self, known: bool):
        self.known, self.asked = known, []

    def system(self, command: str) -> None:
        self.asked.append(command)
        if self.known:
            package = Path("finetune-scaling", "finetune_scaling")
            package.mkdir(parents=True)
            (package / "__init__.py").touch()

    def run_line_magic(self, *words: str) -> None:
        self.asked.append(" ".join(words))


def fetched(name: str) -> ModuleSpec | None:
    """A package cloned into the working directory."""
    for file in Path.cwd().glob(f"*/{name}/__init__.py"):
        return importlib.util.spec_from_file_location(name, file)
    return None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("known", [True, False], ids=["an address", "none"])
def test_the_first_cell_installs_a_missing_package(path, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", fetched)  # hides the installed package
    source = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    shell = Shell(known)
    program = TransformerManager().transform_cell(source)
    if known:
        exec(program, {"get_ipython": lambda: shell})
        assert Path.cwd() == tmp_path / "finetune-scaling" == Path(sys.path[0])
        assert shell.asked[1:] == ["pip install --quiet --editable ./finetune-scaling"]
    else:
        with pytest.raises(FileNotFoundError, match=r"REPOSITORY = '.*' cannot be fetched; give your copy's"):
            exec(program, {"get_ipython": lambda: shell})
        assert len(shell.asked) == 1
    assert shell.asked[0].startswith("GIT_TERMINAL_PROMPT=0 git clone ")  # else it would prompt for a password


def test_an_address_and_badges_are_written_into_all_notebooks_and_removed_from_them(tmp_path):
    address = runpy.run_path(str(FOLDER / "address.py"))
    assert address["main"](["--check"]) == 0
    copy = Path(shutil.copytree(FOLDER, tmp_path / "repository" / FOLDER.relative_to(ROOT)))
    committed = {path: path.read_text() for path in copy.glob("*.ipynb")}
    script = (copy / "address.py").read_text()
    for owner in ("someone/a-fork", "another/finetune"):
        configured = f'REPOSITORY = "https://github.com/{owner}"'
        (copy / "address.py").write_text(re.sub('^REPOSITORY = ".*?"', configured, script, flags=re.MULTILINE))
        main = runpy.run_path(str(copy / "address.py"))["main"]
        assert [main(arguments) for arguments in (["--check"], [], ["--check"])] == [1, 0, 0]
        for path in committed:
            title, code = (nbformat.read(path, as_version=4).cells[number].source for number in (0, 2))
            opened = f"https://colab.research.google.com/github/{owner}/blob/main/launch/notebooks/{path.name}"
            heading, badge, _ = title.split("\n\n")
            assert (heading[:2], badge[:2], badge.endswith(f"({opened})")) == ("# ", "[!", True)
            assert f"\n{configured}\n" in code
    assert main(["--all"]) == 2
    (copy / "address.py").write_text(script)
    assert runpy.run_path(str(copy / "address.py"))["main"]([]) == 0
    assert {path: path.read_text() for path in committed} == committed


def test_no_link_of_a_notebook_leads_to_a_placeholder():
    repository = runpy.run_path(str(FOLDER / "address.py"))["REPOSITORY"]
    for path in NOTEBOOKS:
        links = re.findall(
            r"https://(?:github|colab\.research\.google)\.com/(?:github/)?[^\"/)]+/[^\"/)]+", path.read_text()
        )
        assert all(repository and link.endswith(repository.removeprefix("https://github.com/")) for link in links)
