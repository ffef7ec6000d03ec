"""The convert command for adapters and exports: flags, summaries and errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peft import AutoPeftModelForCausalLM
from safetensors.numpy import save_file
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[2]


def convert(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune_scaling.convert", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    """A soft prompt as PEFT writes it."""
    folder = tmp_path_factory.mktemp("prompt")
    save_file({"prompt_embeddings": np.eye(3, 24, dtype=np.float32)}, folder / "adapter_model.safetensors")
    fields = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "token_dim": 24}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def test_adapter_is_imported_and_exported_with_its_base(
    prompt, base, runs, run_logits, reference_logits, tokens, tmp_path
):
    run, out = tmp_path / "run", tmp_path / "out"
    came = convert(
        f"--from-peft={prompt}", f"--base={base}", f"--out={run}", "--config=tests/tiny.py:prompt",
        f"--config.tokenizer={runs.tokenizer}",
    )  # fmt: skip
    assert came.returncode == 0, came.stderr
    figures = json.loads(came.stdout)
    assert figures["method"] == {"name": "prompt", "length": 3}
    assert figures["trainable_parameters"] == 3 * 24
    refused = convert(f"--checkpoint={run}", f"--to-hf={out}")
    assert refused.returncode == 2
    assert "cannot be merged into a model" in refused.stderr
    assert "--to-peft=DIR" in refused.stderr
    went = convert(f"--checkpoint={run}", f"--to-hf={out}", "--no-merge", "--step=0")
    assert went.returncode == 0, went.stderr
    figures = json.loads(went.stdout)
    assert figures["model"]["tokenizer"] == ["tokenizer.json", "tokenizer_config.json"]
    assert figures["adapter"]["out"] == str(out / "adapter")
    # The adapter knows where its base is.
    np.testing.assert_allclose(
        reference_logits(AutoPeftModelForCausalLM.from_pretrained(out / "adapter")), run_logits(run), atol=1e-4
    )
    assert len(AutoTokenizer.from_pretrained(out)) == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint=run", "--to-peft=out", "--base=run"), "--base does not apply to --checkpoint"),
        (("--from-peft=adapter", "--base=run"), "--out is missing"),
    ],
)
def test_contradicting_or_missing_flag_is_named(arguments, message):
    refused = convert(*arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
