"""A public model where a run is needed gets one message, which has the command that converts it."""

import runpy
from pathlib import Path

import pytest

from finetune_scaling.errors import UserError
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.planning.workload import planned_model
from finetune_scaling.reading.run import load_run
from finetune_scaling.runs.model_loading import find_run, load_base
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory

CONFIG_OF_RUN = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "run.py"))["get_config"]

ADAPTER = {"name": "an adapter", "weights_sha256": ""}
MINIMAL = {"sequence": {"length": 8}, "limits": {"max_steps": 1}, "tokenizer": "t", "adapter": ADAPTER}


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return folder


@pytest.mark.parametrize(
    "use",
    [
        lambda public, _: load_base(public),
        lambda public, _: find_run(public),
        lambda public, _: load_run(public),
        lambda public, _: inspect(public),
        lambda public, _: CONFIG_OF_RUN(str(public)),
        lambda public, _: planned_model(read_run_config({**MINIMAL, "base": {"run": str(public)}})),
        lambda public, out: export_run(RunExport(str(public), model=str(out))),
        lambda public, out: import_adapter(AdapterImport(str(public), str(public), str(out))),
        lambda public, _: RunDirectory(public).write_config({"name": "mine"}),
        lambda public, _: read_points(public),
    ],
    ids=[
        "base", "run", "load_run", "inspect", "configs/run.py", "plan", "export", "base of an adapter", "workdir",
        "points",
    ],
)  # fmt: skip
def test_message_has_the_command(public, use, tmp_path):
    before = (public / "config.json").read_text()
    with pytest.raises(UserError, match=f"is a public model, not a run. Fix: .*--from-hf={public} --out=DIR"):
        use(public, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (public / "config.json").read_text() == before


@pytest.mark.parametrize("use", [load_base, load_run, inspect])
def test_an_adapter_where_a_run_is_needed_gets_the_command_that_converts_it(use, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match=f"is a PEFT adapter, not a run. Fix: .*--from-peft={tmp_path} --base=RUN"):
        use(tmp_path)
