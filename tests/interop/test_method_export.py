"""Export of every tuning method: to PEFT and back, and merged into a model that transformers loads."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.interop.run_export import RunExport, export_run

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_models.py"))
# On GPT-NeoX, whose fused queries, keys and values are one module of PEFT; some of them have no adapter.
FUSED = {
    "lora": {"name": "lora", "rank": 2, "rank_stabilized": True, "targets": ["value", "up"]},
    "dora": {"name": "dora", "rank": 2, "alpha": 3.0, "targets": ["query", "value", "down"]},
    "ia3": {"name": "ia3"},
    "prefix": {"name": "prefix", "length": 3, "mlp_width": 5},
}


@pytest.fixture(scope="module")
def neox(runs, tmp_path_factory):
    """A GPT-NeoX as transformers saves it, and the run of it as a base."""
    folder = tmp_path_factory.mktemp("neox")
    MADE["make"]("gpt_neox").save_pretrained(folder / "public")
    return folder / "public", runs.write(folder / "base", *load_model(folder / "public"))


@pytest.mark.parametrize("method", FUSED.values(), ids=FUSED)
def test_adapter_of_fused_modules_has_the_same_logits_in_peft(
    method, neox, runs, run_logits, reference_logits, tmp_path
):
    public, base = neox
    run = runs.tune(tmp_path / "run", base, method)
    expected = run_logits(run)
    assert np.abs(expected - run_logits(base)).max() > 0.05
    export_run(RunExport(str(run), adapter=str(tmp_path / "adapter")))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(public), tmp_path / "adapter")
    np.testing.assert_allclose(reference_logits(model), expected, atol=1e-4)
    summary = import_adapter(AdapterImport(str(tmp_path / "adapter"), str(base), str(tmp_path / "again")))
    np.testing.assert_allclose(run_logits(tmp_path / "again"), expected, atol=1e-4)
    assert summary["method"]["name"] == method["name"]
    if method["name"] in ("dora", "ia3"):
        export_run(RunExport(str(run), model=str(tmp_path / "merged")))
        np.testing.assert_allclose(
            reference_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected, atol=1e-4
        )


def test_bitfit_is_merged_where_the_family_has_biases(base, neox, runs, run_logits, reference_logits, tmp_path):
    run = runs.tune(tmp_path / "run", base, {"name": "bitfit"})
    summary = export_run(RunExport(str(run), model=str(tmp_path / "out")))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (summary["model"]["family"], model.config.attention_bias, model.config.mlp_bias) == ("llama", True, True)
    np.testing.assert_allclose(reference_logits(model), run_logits(run), atol=1e-4)
    with pytest.raises(ConfigError, match=r"PEFT has no method .bitfit. .*--to-hf"):
        export_run(RunExport(str(run), adapter=str(tmp_path / "adapter")))
    with_norms = runs.tune(tmp_path / "neox", neox[1], {"name": "bitfit"})  # the biases of its LayerNorms train, too
    export_run(RunExport(str(with_norms), model=str(tmp_path / "neox out")))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "neox out")
    np.testing.assert_allclose(reference_logits(again), run_logits(with_norms), atol=1e-4)


def test_bitfit_without_a_family_and_bottlenecks_are_rejected(base, runs, tmp_path):
    MADE["make"]("gemma2").save_pretrained(tmp_path / "public")
    gemma = runs.write(tmp_path / "gemma", *load_model(tmp_path / "public"), tokenizer="")
    bitfit = runs.tune(tmp_path / "bitfit", gemma, {"name": "bitfit"})
    with pytest.raises(ConfigError, match=r"no family .*biased"):
        export_run(RunExport(str(bitfit), model=str(tmp_path / "out")))
    bottleneck = runs.tune(tmp_path / "bottleneck", base, {"name": "bottleneck", "width": 3})
    with pytest.raises(ConfigError, match="PEFT has no method 'bottleneck'"):
        export_run(RunExport(str(bottleneck), adapter=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="'bottleneck' cannot be merged"):
        export_run(RunExport(str(bottleneck), model=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
