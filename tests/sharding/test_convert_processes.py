"""A public model converted by several processes: each writes its share, and the files are those of one process."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.sharding.mesh import ShardingConfig

SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip


def arrays(base: Path) -> dict[str, bytes]:
    state = base / "checkpoints" / "0" / "state"
    return {str(file.relative_to(state)): file.read_bytes() for file in state.rglob("*.*") if file.parent != state}


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(together, tmp_path):
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(tmp_path / "public")
    record = import_model(ModelImport(str(tmp_path / "public"), str(tmp_path / "one"), sharding=ShardingConfig(fsdp=2)))
    flags = [f"--from-hf={tmp_path / 'public'}", f"--out={tmp_path / 'two'}", "--fsdp=2"]
    ends = together.wait(together.start([["-m", "finetune_scaling.convert", *flags]] * 2))
    assert [end.code for end in ends] == [0, 0], ends
    for end in ends:
        assert json.loads(end.output.splitlines()[-1])["arrays_digest"] == record["arrays_digest"]
    assert arrays(tmp_path / "two") == arrays(tmp_path / "one")
    assert not (tmp_path / "two" / ".conversion").exists()
