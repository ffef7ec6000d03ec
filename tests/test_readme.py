"""Commands, flags, configs, files, code blocks and columns that README and docs/ mention exist and work."""

import ast
import contextlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from finetune_scaling import errors
from finetune_scaling.configuration import build, plain
from finetune_scaling.data.sources import SOURCE_KINDS, source_from_config
from finetune_scaling.data.task import load_task
from finetune_scaling.data.tasks import TASKS
from finetune_scaling.laws.points.columns import UNIT_COLUMNS
from finetune_scaling.metrics.learned.metric import LearnedMetric
from finetune_scaling.metrics.registry import METRICS as METRIC_NAMES
from finetune_scaling.runs.run_config import LimitsConfig, read_run_config
from finetune_scaling.studies.grid import FACTORS, read_study
from finetune_scaling.studies.tables import BASE_COLUMNS, POINT_COLUMNS
from finetune_scaling.tuning.registry import METHODS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP_LEVEL = ("configs/", "finetune_scaling/", "launch/", "benchmarks/", "docs/", "tests/")


def commands() -> list[tuple[str, str]]:
    """Return (page, command) for every command line on the pages, indented or in backticks."""
    pattern = re.compile(r"(?:python (?:-m )?|bash )[a-z_]+[./][^`\n]*")
    found = []
    for page in PAGES:
        for text in pattern.findall(page.read_text(encoding="utf-8")):
            found.append((page.name, text.split("   #")[0].split(" # ")[0].strip()))
    return found


PYTHON = [(page, command) for page, command in commands() if command.startswith("python")]


def arguments_of(command: str) -> list[str]:
    return [word for word in shlex.split(command) if word.startswith("--")]


def known_flags(script: Path) -> set[str]:
    """Return the flags that a script defines by absl's DEFINE_..., command_flags.py, or argparse's add_argument."""
    names = {"help"}
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            first, function = node.args[0], ast.unparse(node.func).rpartition(".")[2]
            defines = function.startswith("DEFINE_") or function.endswith("_flag") or function == "add_argument"
            if defines and isinstance(first, ast.Constant):
                names.add(str(first.value).removeprefix("--"))
    return names


def get_config(name: str) -> ConfigDict:
    path, _, argument = name.partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([argument] if argument else []))


def test_the_pages_show_commands():
    shown = {command.split()[2].partition(".")[2] for _, command in PYTHON if command.startswith("python -m")}
    assert {"train", "evaluate", "study", "fit", "prepare"} <= shown


@pytest.mark.parametrize(("page", "command"), PYTHON)
def test_commands_and_their_flags_exist(page, command):
    words = shlex.split(command)
    module = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
    if "NAME" in module:
        return
    script = ROOT / module
    assert script.is_file(), f"{page}: {command}"
    for argument in arguments_of(command):
        flag = argument[2:].partition("=")[0].replace("-", "_").partition(".")[0]
        known = {name.replace("-", "_") for name in known_flags(script)}
        assert flag in known or flag.removeprefix("no_") in known, f"{page}: {command}: --{flag}"


WITH_CONFIG = [entry for entry in PYTHON if "--config=configs/" in entry[1] and "configs/run.py" not in entry[1]]


@pytest.mark.parametrize(("page", "command"), WITH_CONFIG)
def test_configs_of_commands_build_with_their_overrides(page, command, read_command_line):
    arguments = arguments_of(command)
    own = [argument.replace("--config=", f"--config={ROOT}/") for argument in arguments]
    config = read_command_line(*(argument for argument in own if argument.startswith("--config")))
    if "families" in config:
        read_study(config)
    elif "limits" in config:
        read_run_config(config)
    else:
        assert "tokenizer" in config, f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_name_config_fields(page, read_command_line):
    configs = ["configs/finetune/wmt14_en_de.py:1b,lora", "configs/study/paper.py"]
    for override in re.findall(r"`(--config\.[^`]+)`", page.read_text(encoding="utf-8")):
        if override.startswith("--config.group."):
            continue
        config = configs["seeds=" in override]
        flags = [f"--config={ROOT / config}", *shlex.split(override.removesuffix("=N"))]
        name_only = "=" not in flags[1]
        with pytest.raises(errors.ConfigError, match="has no value") if name_only else contextlib.nullcontext():
            read_command_line(*flags)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for shown in re.findall(r"`([^`\s]+)`", text):
        path = shown.partition(":")[0]
        if path.startswith(TOP_LEVEL):
            assert (ROOT / path).exists(), f"{page.name} mentions {shown}"
    for script in re.findall(r"bash (launch/\S+\.sh)", text):
        assert (ROOT / script).is_file(), f"{page.name}: {script}"


def code_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_example_task_of_the_data_page_loads():
    scope: dict = {}
    exec("".join(code_blocks("data.md")), scope)
    task = load_task(scope["task"])
    assert list(task.splits()) == ["train", "dev", "test2020", "test2021"]
    assert (task.max_source_tokens, task.train[0].direction) == (128, "en-de")


def test_the_example_frame_of_the_points_page_is_read():
    scope: dict = {}
    exec("".join(code_blocks("points.md")), scope)
    assert len(scope["points"].settings) == 9
    assert scope["points"].warnings == ()


def test_the_metrics_page_lists_every_metric_and_its_example_loads():
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for name in METRIC_NAMES:
        if not name.startswith("rouge") or name.count("-") == 0:
            assert f"`{name}`" in text, name
    assert "`rouge1-stem`" in text
    assert "`rouge1-nostem`" in text
    scope: dict = {}
    exec("".join(code_blocks("metrics.md")), scope)
    metric = build(LearnedMetric, plain(scope["get_config"]()), "docs/metrics.md")
    assert metric.timeout == LearnedMetric("any", ("any",)).timeout
    for field in LearnedMetric.__dataclass_fields__:
        assert f'"{field}"' in text, field


def test_the_data_page_lists_every_source_and_task():
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for name in [*SOURCE_KINDS, *TASKS]:
        assert f"`{name}`" in text
    for example in re.findall(r"`(\{\"kind\": .*?\})`", text):
        source_from_config(ast.literal_eval(example), "docs/data.md")


def test_the_methods_page_lists_the_defaults():
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip(" `"): [cell.strip() for cell in row.split("|")] for row in text.splitlines()
            if row.startswith("| `")}  # fmt: skip
    assert rows.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert (float(rows[name][-3]), int(rows[name][-2])) == (
            method.defaults.learning_rate,
            method.defaults.batch_size,
        )


def test_the_reference_lists_every_column_exit_code_and_limit():
    text = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    for column in (*POINT_COLUMNS, *FACTORS):
        assert f"`{column}`" in text, column
    points = (ROOT / "docs/points.md").read_text(encoding="utf-8")
    for column in (*BASE_COLUMNS, *UNIT_COLUMNS):
        assert f"`{column}`" in points, column
    for code in (errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_PREEMPTED, errors.EXIT_INTERRUPTED):
        assert f"| {code} |" in text
    for limit in ("patience", "max_steps", "max_epochs", "max_tokens"):
        assert limit in LimitsConfig.__dataclass_fields__
        assert f"`{limit}`" in text
