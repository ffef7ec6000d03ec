"""The plan command: compiled plans for TPUs, estimates for GPUs, and error messages."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
run_in_one_process = runpy.run_path(str(ROOT / "tests" / "command_process.py"))["run_in_one_process"]
LORA = "--config=configs/finetune/wmt14_en_de.py:1b,lora"
SMALL = (  # compiles in seconds
    "--config=configs/pretrain/grammar.py:30k",
    "--vocabulary=384",
    "--batch=16",
    "--length=64",
    "--config.sharding.fsdp=2",
)


def plan(*flags: str, **environment: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of the command, started without libtpu's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "JAX_", "ALLOW_"))}
    command = [sys.executable, "-m", "finetune_scaling.plan", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=kept | environment, timeout=600)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def compiled() -> dict:
    """Return the compiled plan of a small step."""
    pytest.importorskip("libtpu")
    code, printed, errors = plan(*SMALL, "--topology=v5e:2x2", "--json")
    assert code == 0, errors
    assert "training: compiled after" in errors
    return json.loads(printed)


@pytest.mark.slow
def test_small_step_compiled_for_a_tpu(compiled: dict) -> None:
    assert (compiled["chips"], compiled["accelerator_type"], compiled["fits"]) == (4, "v5litepod-4", True)
    assert (compiled["mesh"], compiled["attention"]) == ({"data": 2, "fsdp": 2, "tensor": 1}, "flash")
    assert compiled["hbm_bytes"] == int(15.75 * 2**30)
    assert 0 < compiled["argument_bytes"] <= compiled["peak_bytes"] < 2**27
    assert compiled["collectives"]["all-reduce"]["bytes"] > 0  # gradients, over data
    assert compiled["unknown_loops"] == 0
    assert compiled["evaluation"]["fits"]
    state = compiled["start"]["peak_bytes"]  # without the batch, and without the padding of small arrays
    assert compiled["resume"] == compiled["start"] == {"fits": True, "peak_bytes": state}
    assert 0.5 * compiled["argument_bytes"] < state < compiled["argument_bytes"]
    assert "decoding" not in compiled  # pretraining does not decode


@pytest.mark.slow
def test_estimated_arguments_agree_with_the_compiler(compiled: dict) -> None:
    """They differ only by the padding of small arrays on TPUs."""
    code, printed, _ = plan(*SMALL, "--topology=v5e:2x2", "--json", "--analytic")
    assert code == 0
    estimated = json.loads(printed)
    assert estimated["compiled"] is False
    assert estimated["collectives"] is None
    assert estimated["argument_bytes"] <= compiled["argument_bytes"] <= 3 * estimated["argument_bytes"]


@pytest.mark.slow
def test_two_processes_compile_at_the_same_time() -> None:
    pytest.importorskip("libtpu")
    flags = [*SMALL, "--topology=v5e:2x2", "--json", "--training-only"]
    command = [sys.executable, "-m", "finetune_scaling.plan", *flags]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    first, second = (json.loads(printed) for printed, _ in outcomes)
    assert first["peak_bytes"] == second["peak_bytes"]


@pytest.mark.slow
def test_a_program_that_does_not_fit_has_the_requested_memory() -> None:
    pytest.importorskip("libtpu")
    huge = (*SMALL[:2], "--batch=131072", "--length=64")
    code, printed, errors = plan(*huge, "--topology=v5e:1x1", "--training-only", "--json")
    assert code == 0, errors
    result = json.loads(printed)
    assert result["fits"] is False
    assert result["peak_bytes"] > result["hbm_bytes"]


def test_gpus_are_estimated() -> None:
    code, printed, errors = plan(LORA, "--topology=h100:8", "--json", "--prices.h100.spot=2.0")
    assert code == 0, errors
    result = json.loads(printed)
    assert result["compiled"] is False
    assert result["fits"] is True
    assert result["model"]["parameters"] == 1_218_480_128 + result["model"]["trainable_parameters"]
    assert result["usd"]["likely"]["on_demand"] == pytest.approx(result["run"]["chip_hours"] * 6.88)
    assert result["usd"]["likely"]["spot"] == pytest.approx(result["run"]["chip_hours"] * 2.0)


def test_search_without_compiling_covers_every_kind_of_chip() -> None:
    code, printed, errors = plan(LORA, "--search", "--analytic", "--json")
    assert code == 0, errors
    found = json.loads(printed)
    assert [entry["topology"].partition(":")[0] for entry in found] == [
        *("v4", "v5e", "v5p", "v6e", "a100", "h100", "h200", "cpu")
    ]
    assert all(entry["fits"] for entry in found)


def test_search_over_batches_returns_the_cheapest_batch() -> None:
    small = (
        "--config=configs/pretrain/grammar.py:30k",
        "--vocabulary=384",
        "--length=64",
    )  # dominated by reading weights
    flags = (*small, "--search", "--topology=h100", "--json")
    code, printed, errors = plan(*flags, "--batches=1,64")
    assert code == 0, errors
    (found,) = json.loads(printed)
    single = {}
    for batch in (1, 64):
        code, printed, _ = plan(*flags, f"--batch={batch}")
        (single[batch],) = json.loads(printed)
    costs = {batch: one["chip_seconds_per_sequence_bound"] for batch, one in single.items()}
    assert found == single[64]
    assert costs[64] < costs[1]


def test_search_uses_the_sharding_rules_of_the_config(tmp_path: Path) -> None:
    """If only batches are sharded, each chip holds the complete model."""
    replicated = dict.fromkeys(("embed", "heads", "kv_heads", "ffn", "vocab", "other"), ())
    config = tmp_path / "config.py"
    config.write_text(
        "import runpy\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs/finetune/wmt14_en_de.py')!r})['get_config']('1b,lora')\n"
        f"    config.sharding.axes = {replicated}\n"
        "    return config\n"
    )
    code, printed, errors = plan(f"--config={config}", "--search", "--topology=h100:8", "--json")
    assert code == 0, errors
    (found,) = json.loads(printed)
    assert found["argument_bytes"] > 2 * 1_218_480_128


def test_search_omits_chips_without_the_attention_kernel() -> None:
    code, printed, errors = plan(LORA, "--search", "--analytic", "--json", "--config.model.attention=flash")
    assert code == 0, errors
    assert [entry["topology"].partition(":")[0] for entry in json.loads(printed)] == ["v4", "v5e", "v5p", "v6e"]
    assert "h100 is omitted" in errors


MISTAKES = [
    ((LORA,), "--topology is missing"),
    ((LORA, "--topology=v5e:4x5"), "--topology=v5e:4x5 .*v5e:4x8"),
    ((LORA, "--topology=h100:8", "--config.sharding.fsdp=3"), "does not divide the 8 devices"),
    ((LORA, "--topology=h100:8", "--batch=12"), "not divisible by 8"),
    ((LORA, "--topology=h100:8", "--model=3b"), "--model = '3b' is unknown"),
    ((LORA, "--topology=h100:8", "--smallest"), "--smallest needs --search"),
    ((LORA, "--search", "--study"), "give one of them"),
    ((LORA, "--topology=h100:8", "--batches=8,16"), "--batches needs --search"),
    ((LORA, "--search", "--topology=h100", "--batches=8,x"), "--batches: 'x'"),
    (("--config=configs/study/paper.py", "--study", "--batch=4"), "--batch is for one run"),
    ((LORA, "--topology=v5e:4x4", "--analytic", "--config.model.attention=cudnn"), "'cudnn' needs a GPU, not tpu"),
    ((LORA, "--topology=h100:8", "--config.model.attention=flash"), "'flash' needs a TPU, not gpu"),
    ((LORA, "--search", "--topology=cpu", "--config.model.attention=flash"), "'flash' needs a TPU, not cpu"),
    (("--config=configs/study/paper.py", "--study", "--topology=v5e:4x4"), "--topology=v5e$"),
    ((LORA, "--topology=v5e:4x4", "--analytic", "--training-only"), "--training-only is for one run"),
    ((LORA, "--topology=h100:8", "--training-only"), "--training-only is for one run"),
    ((LORA, "--topology=v5e", "--search", "--training-only"), "--training-only is for one run"),
]


def test_usage_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    results = run_in_one_process("finetune_scaling.plan", [flags for flags, _ in MISTAKES])
    for (_, message), (code, printed, errors) in zip(MISTAKES, results, strict=True):
        assert (code, printed, errors.count("\n")) == (2, "", 1), errors
        assert re.search(message, errors), errors


def test_totals_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flags = ("--config=configs/study/quickstart.py", "--study", "--topology=v5e")
    (_, text, _), (code, printed, errors) = run_in_one_process("finetune_scaling.plan", [flags, (*flags, "--json")])
    assert code == 0, errors
    totals = json.loads(printed)
    assert totals["total"]["runs"] == sum(method["runs"] for method in totals["methods"].values())
    columns = [*totals["methods"].values(), totals["total"]]
    assert [line.split()[1:] for line in text.splitlines() if line.startswith("runs")] == [
        [f"{column['runs']:,}" for column in columns]
    ]


def test_without_libtpu_the_extra_is_named(tmp_path: Path) -> None:
    """find_spec is patched to simulate a missing package."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'libtpu' else find(name, *rest)\n"
    )
    code, _, errors = plan(LORA, "--topology=v5e:2x2", PYTHONPATH=str(tmp_path))
    assert code == 2
    assert ".[test]" in errors
    assert ".[tpu]" in errors
