"""The prepare command: a tokenizer from a config file, a task's data, and one line per error."""

import json
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_scaling.data.tokenizers.loading import load_tokenizer

run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]
CONFIG = """
import ml_collections

def get_config():
    train, dev = (
        {"source": {"kind": "files", "path": f"FOLDER/{name}.jsonl"}, "field": "text"} for name in ("train", "dev")
    )
    return ml_collections.ConfigDict(
        {"tokenizer": {"vocab_size": 320, "sentinels": 10}, "corpus": {"train": [train], "dev": [dev]}}
    )
"""


@pytest.fixture
def config(tmp_path) -> Path:
    generator = random.Random(0)
    for name in ("train", "dev"):
        words = ["".join(generator.choices("abcdefgh", k=5)) for _ in range(200)]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{word} {word}"}) + "\n" for word in words)
        )
    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    return path


def _prepare(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "finetune_scaling.prepare", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


def test_tokenizer_from_a_config_file_with_a_field_overridden(config, tmp_path):
    out = tmp_path / "tokenizer"
    code, printed, errors = _prepare(
        "tokenizer", f"--config={config}", f"--out={out}", "--config.tokenizer.sentinels=8"
    )
    assert (code, errors) == (0, "")
    tokenizer = load_tokenizer(out)
    assert tokenizer.vocab_size == 320
    assert len(tokenizer.special_tokens.sentinel_ids) == 8
    assert tokenizer.digest in printed
    assert json.loads((out / "tokenizer.json").read_text())["config"]["sentinels"] == 8


def test_data_of_a_task(tmp_path):
    code, printed, errors = _prepare("corpus", "--task=grammar_translation")
    assert (code, errors) == (0, "")
    assert "grammar translation A-B, split 'train'" in printed


def test_user_errors_are_one_line_each(config):
    bad = config.with_name("bad.py")
    bad.write_text("x = (")
    at_config = f"--config={config}"
    mistakes = {
        (): "tokenizer, corpus",
        ("toknizer",): "did you mean 'tokenizer'",
        ("tokenizer", at_config): "--out is missing",
        ("tokenizer", "--out=x", "--config=missing.py"): "missing.py",
        ("tokenizer", "--out=x", f"--config={bad}"): "bad.py:1: SyntaxError",
        ("tokenizer", "--out=x", at_config, "--config.tokenizer.sentinel=1"): "did you mean 'sentinels'",
        ("tokenizer", "--out=x", at_config, "--config.tokenizer.vocab_size=10"): "outside 290..131072",
        ("corpus", "--task=wmt14_en_d"): "did you mean 'wmt14_en_de'",
        ("corpus", "--tusk=x"): "tusk",
        ("shards", "--out=x", at_config, "--min_tokens=-1"): "min_tokens",
    }
    results = run_in_one_process("finetune_scaling.prepare", list(mistakes))
    for (arguments, expected), (code, printed, errors) in zip(mistakes.items(), results, strict=True):
        assert (code, printed, errors.count("\n")) == (2, "", 1), (arguments, errors)
        assert errors.startswith("error: ")
        assert expected in errors
