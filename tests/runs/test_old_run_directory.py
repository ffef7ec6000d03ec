"""A run directory written by commit 30fca76, before the package was restructured, is read by the present code."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling import configuration
from finetune_scaling.errors import WorkdirError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.reading import load_run
from finetune_scaling.runs.checkpoints import read_metadata
from finetune_scaling.runs.model_loading import find_run
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.runs.training_progress import progress_from_metadata
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS


def part(split: str) -> dict[str, Any]:
    source = {"kind": "grammar", "dataset": "translation", "split": split, "size": 20, "languages": ["A", "B"]}
    languages = {"source_language": "A", "target_language": "B"}
    return {"source": source, "source_field": "source", "target_field": "target", **languages}


CONFIG = {
    "base": {"run": "/old/base"},
    "batch": {"size": 8},
    "checkpoint": {"every_steps": 3},
    "evaluation": {"batch_size": 20, "every_steps": 4, "evaluators": {"few_shot_1": {"examples": 6, "generate": 3}}},
    "finetune_examples": 40,
    "limits": {"max_steps": 8},
    "logging": {"every_steps": 4},
    "method": {"name": "lora", "rank": 2, "targets": ["query", "down"]},
    "name": "old",
    "schedule": {"learning_rate": 0.01},
    "sequence": {"bidirectional_input": True, "length": 32, "max_source_tokens": 12, "max_target_tokens": 12},
    "sharding": {"fsdp": 1, "tensor": 1},
    "task": {
        "name": "tiny",
        "kind": "translation",
        "template": {"input": "{source} =", "target": " {target}"},
        **{split: [part(split)] for split in ("train", "dev")},
        "test": {"test": [part("test")]},
    },
    "tokenizer": "/old/tokenizer",
}
METRICS = """\
{"step": 4, "loss": 5.04, "learning_rate": 0.0085, "gradient_norm": 0.1, "time": 1796089359.078}
{"step": 4, "dev_loss": 5.06}
{"step": 8, "loss": 4.92, "learning_rate": 0.0037, "gradient_norm": 0.11, "time": 1796089359.851}
{"step": 8, "dev_loss": 5.05}
"""
METADATA = """
{"model": {"vocab_size": 256, "layers": 1, "model_dim": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_dim": 128,
"max_length": 64, "block": "parallel", "shared_norm": true, "norm": "rmsnorm", "norm_place": "before",
"norm_epsilon": 1e-06, "norm_offset": 0.0, "qk_norm": "none", "activation": "swiglu", "biased": [],
"positions": "rope", "rope_theta": 10000.0, "rope_fraction": 1.0, "rope_scaling": null, "window": null,
"window_pattern": [true], "local_rope_theta": null, "query_scalar": null, "attention_softcap": null,
"tied_head": true, "scale_logits": true, "logit_softcap": null, "embedding_std": 1.0, "scale_embeddings": false,
"compute_dtype": "float32", "remat": "none", "attention": "plain"},
"method": {"name": "lora", "rank": 2, "targets": ["query", "down"]}, "tokenizer_sha256": "b4bb", "base_digest": "5bba",
"tokens_per_step": 256, "position": {"step": 8, "best_step": 8, "best_loss": 5.05, "losses": [5.06, 5.05],
"steps_evaluated": [4, 8], "target_tokens": 842, "unreported_loss": 0.0, "unreported_tokens": 0.0,
"stopped_by": "max_steps", "seconds": 50.654}, "best_step": 8, "step": 8, "arrays_digest": "21fd"}
"""
RESULT = """
{"name": "old", "task": "tiny", "method": "lora", "pet_size": 2, "parameters": 23616, "seconds": 56.26, "steps": 8,
"best_step": 8, "dev_loss": 5.05, "dev_losses": {"4": 5.06, "8": 5.05}, "stopped_by": "max_steps", "loss": 4.97,
"entropy": 0.2, "metrics": {"bleu": 1.5}, "tests": {"test": {"loss": 4.97, "tokens": 175, "examples": 20, "bytes": 590,
"entropy": 0.2, "generated": 4, "metrics": {"bleu": {"score": 1.5, "signature": "nrefs:1|tok:13a"}}}}, "evaluators": {
"few_shot_1": {"loss": 5.12, "metrics": {"bleu": {"score": 1.5, "signature": "nrefs:1|tok:13a"}}, "untuned": {
"loss": 5.13, "metrics": {}, "record": "evaluation/step_20/few_shot_1.a307d863ce99.json"}, "baselines": {"copy": {
"metrics": {"bleu": {"score": 2.5, "signature": "nrefs:1|tok:13a"}}}}}}}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    facts = tmp_path / "checkpoints" / "8" / "facts"
    facts.mkdir(parents=True)
    (facts / "metadata").write_text(METADATA)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "metrics.jsonl").write_text(METRICS)
    (tmp_path / "result.json").write_text(RESULT)
    return tmp_path


def test_an_old_run_is_read(directory):
    run = load_run(directory)
    assert (run.state, run.name, run.loss, run.steps) == ("done", "old", 4.97, [8])
    assert run.curves["dev_loss"].to_dict() == {4: 5.06, 8: 5.05}
    scores = run.scores.set_index(["evaluation", "of", "metric"])["score"]
    assert (scores["result", "model", "bleu"], scores["few_shot_1", "copy", "bleu"]) == (1.5, 2.5)
    assert (scores["few_shot_1", "model", "loss"], scores["few_shot_1", "untuned", "loss"]) == (5.12, 5.13)


def test_an_old_checkpoint_and_config_are_read(directory):
    found = find_run(directory)
    run_config, metadata = found.run_config, read_metadata(found.path)
    assert (found.path.name, run_config.kind, run_config.batch_size) == ("8", "finetuning", 8)
    assert set(run_config.evaluation.named_evaluators) == {"few_shot_1"}
    model = configuration.plain(configuration.build(ModelConfig, metadata["model"], "model"))
    assert model == {"matmul_precision": "default", **metadata["model"]}
    assert configure(METHODS, metadata["method"]).size == 2
    assert progress_from_metadata(metadata).evaluations_since_best == 0


def test_a_run_of_an_old_directory_resumes_with_its_config_only(directory):
    RunDirectory(directory).check_config(CONFIG | {"base": {"run": "/moved"}})
    RunDirectory(directory).check_config(CONFIG | {"optimizer": {"clip_norm": 1.0}})  # the default
    with pytest.raises(WorkdirError, match=r"differ in optimizer\.clip_norm\)"):
        RunDirectory(directory).check_config(CONFIG | {"optimizer": {"clip_norm": None}})
    with pytest.raises(WorkdirError, match=r"schedule\.learning_rate"):
        RunDirectory(directory).check_config(CONFIG | {"schedule": {"learning_rate": 0.5}})
