"""The script that makes the table of smallest slices, with fake plans: which entries it computes and keeps."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plan_table.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(*flags) -> names of the computed entries; another process adds an entry during each computation."""
    table = tmp_path / "table.json"
    names = runpy.run_path(str(SCRIPT))
    entry = {"mesh": {"data": 1, "fsdp": 1, "tensor": 1}, "accumulation": 1, "topology": "v5e:1x1", "remat": "none"}
    entry |= {"peak_bytes": 2**30, "compiled": True}
    table.write_text(json.dumps({name: entry | {"compiled": name.endswith("v5e")} for name, *_ in names["entries"]()}))
    made = []

    def smallest(size, method, kind, analytic):
        made.append(f"{size},{method},{kind}")
        table.write_text(json.dumps(json.loads(table.read_text()) | {"16b,full,v5p": entry | {"peak_bytes": 7}}))
        return entry | {"compiled": not analytic}

    def start(*flags):
        made.clear()
        monkeypatch.setattr(sys, "argv", ["plan_table.py", *flags])
        names["main"].__globals__.update(TABLE=table, smallest=smallest)
        names["main"]()
        return list(made), json.loads(table.read_text())

    return start


def test_only_missing_entries_are_computed_and_those_of_other_processes_stay(run):
    made, table = run("--kinds=v5e,v4")
    assert len(made) == 15
    assert all(name.endswith("v4") and table[name]["compiled"] for name in made)
    assert table["16b,full,v5p"]["peak_bytes"] == 7


def test_again_computes_everything(run):
    assert len(run("--again")[0]) == 60
