"""Fixtures for tests of the page of samples: directories of scored runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.data.task import jsonl_task

TASK = jsonl_task("news", "translation", ("en", "de"), ("en", "de"), train="x.jsonl", test={"test": "y.jsonl"})
# Texts that break pages: markup, script end tags, line separators, right-to-left text, emoji sequences.
HOSTILE = [
    ('<script>document.title = "broken"</script>', "</script><!-- <b>fett</b> -->"),
    ("\"double\" 'single' &amp; `back` ${tick} \\u003c", "\"doppelt\" 'einfach' &lt; {{data}}"),
    ("line\u2028separator\u2029paragraph \x85 next", "Zeile\u2028Trenner\u2029Absatz"),
    ("שלום עולם, mixed 123", "مرحبا بالعالم 123"),
    ("👩‍👩‍👧‍👦 family 🏳️‍🌈", "👩‍👩‍👧‍👦 Familie 🏳️‍🌈"),
    ("天气很好。", "今天天气不好。"),
    ("two\nlines\tand a tab", "zwei\nZeilen"),
]


@pytest.fixture(scope="session")
def write_run() -> Callable[..., str]:
    """write_run(folder, rows, task=TASK, split="test") writes a scored run and returns its directory."""

    def write(folder: Path, rows: Sequence[dict[str, Any]], task: Any = TASK, split: str = "test") -> str:
        (folder / "evaluation").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"task": task} if task else {}))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "evaluation" / f"{split}.jsonl").write_text(text, encoding="utf-8")
        return str(folder)

    return write


@pytest.fixture(scope="session")
def hostile() -> list[tuple[str, str]]:
    """Return (source, reference) of every hostile example."""
    return HOSTILE


@pytest.fixture(scope="session")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., str]) -> list[str]:
    """Return two runs on the hostile examples: one generates the reference, the other copies the source."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = [{"index": i, "source": source, "reference": target} for i, (source, target) in enumerate(HOSTILE)]
    full = [{**row, "hypothesis": row["reference"], "loss_sum": 1.0, "tokens": 2} for row in texts]
    lora = [{**row, "hypothesis": row["source"], "loss_sum": None, "tokens": 2} for row in texts]
    return [write_run(folder / "full", full), write_run(folder / "lora", lora)]
