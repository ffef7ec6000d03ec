"""Train steps for TPUs have no scores of whole rows unless their attention is plain."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_train_step_for_a_tpu_has_no_scores_of_whole_rows():
    pytest.importorskip("libtpu")
    script = Path(__file__).with_name("attention_shapes.py")
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["plain, prefix LM"]["arrays"]
    for rows in ("prefix LM", "causal"):
        assert found[f"auto, {rows}"]["arrays"] == []
        assert found[f"auto, {rows}"]["kernels"] >= 3  # forward, and gradients of queries and of keys and values
