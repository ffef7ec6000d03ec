"""Paths of a run's base and tokenizer, also where they have moved."""

import json
import shutil
from pathlib import Path

import pytest

from finetune_scaling.runs.checkpoints import read_metadata
from finetune_scaling.runs.model_loading import find_run
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.runs.run_paths import resolve_base


@pytest.fixture
def run(tiny_runs, tmp_path) -> Path:
    """A run in work/out/one that recorded the tiny base and tokenizer under paths that do not exist any more."""
    directory = tmp_path / "work" / "out" / "one"
    directory.mkdir(parents=True)
    paths = {"tokenizer": "/gone/shared/tokenizers/tiny", "base": {"run": "/gone/models/llama"}}
    RunDirectory(directory).write_config(tiny_runs.config("lora", **paths))
    newest = max((tiny_runs.base / "checkpoints").iterdir(), key=lambda path: int(path.name))
    metadata = read_metadata(newest)
    digests = {"base_digest": metadata["arrays_digest"], "tokenizer_sha256": metadata["tokenizer_sha256"]}
    RunDirectory(directory).write_result({"best_step": 0, **digests})
    return directory


def base_of(run: Path) -> str:
    return resolve_base(read_run_config(RunDirectory(run).config).base, run).run


def public_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return path


def test_a_moved_base_is_found_next_to_the_run_by_its_digest(run, tiny_runs, tmp_path):
    assert base_of(run) == "/gone/models/llama"  # which the error about a missing base names
    public_folder(run.parent / "models" / "llama")  # nearer, but no base
    found = tmp_path / "work" / "models" / "llama"
    shutil.copytree(tiny_runs.base, found)
    assert base_of(run) == str(found)


def test_a_base_of_another_digest_is_not_taken(run, tiny_runs, tmp_path):
    shutil.copytree(tiny_runs.base, tmp_path / "work" / "models" / "llama")
    record = RunDirectory(run).result
    RunDirectory(run).write_result({**record, "base_digest": "another"})
    assert base_of(run) == "/gone/models/llama"


def test_a_copied_study_uses_its_own_base_and_a_lone_run_the_recorded_one(run, tiny_runs, tmp_path):
    original = tmp_path / "original" / "bases" / "grammar" / "30k"
    shutil.copytree(tiny_runs.base, original)
    RunDirectory(run).write_config({**RunDirectory(run).config, "base": {"run": str(original)}})
    assert base_of(run) == str(original)
    copy = tmp_path / "work" / "bases" / "grammar" / "30k"
    shutil.copytree(tiny_runs.base, copy)
    assert base_of(run) == str(copy)


def test_a_moved_tokenizer_is_found_by_its_digest(run, tiny_runs, tmp_path):
    (run / "checkpoints" / "0").mkdir(parents=True)
    assert find_run(run, step=0).run_config.tokenizer == "/gone/shared/tokenizers/tiny"
    public_folder(tmp_path / "work" / "tokenizers" / "tiny")
    shutil.copytree(tiny_runs.tokenizer, tmp_path / "tokenizers" / "tiny")
    assert find_run(run, step=0).run_config.tokenizer == str(tmp_path / "tokenizers" / "tiny")
