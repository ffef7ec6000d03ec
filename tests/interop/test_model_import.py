"""Import of public models: bit for bit, resumable after a kill, and tuned, scored and inspected like our own bases."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune_scaling import configuration
from finetune_scaling.data.encoding import encode_examples
from finetune_scaling.data.task import jsonl_task
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, DataError, WorkdirError
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.evaluation.scoring import row_losses
from finetune_scaling.experiments.record import pretrain_tokens
from finetune_scaling.experiments.run import run as train
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.inspection.formatting import format_inspection
from finetune_scaling.interop import checkpoint_stream, import_directory, import_source, model_import
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.runs.digest import digest
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.model_loading import find_base, find_run, initialize_model, load_base
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import check_same_encoding, prepare_run_data, task_encoder
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.trees import path_name

ROOT = Path(__file__).parents[2]
SHAPE = {
    "vocab_size": 352, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
}  # fmt: skip


def save_llama(directory, dtype=torch.float32, max_shard_size="30KB", **fields):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_key_value_heads": 2, **fields}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def tokenizers():
    return runpy.run_path(str(ROOT / "tests" / "public_tokenizers.py"))["KINDS"]


@pytest.fixture(scope="module")
def public(tmp_path_factory, tokenizers):
    """A Llama in several shards with its tokenizer."""
    folder = tmp_path_factory.mktemp("public") / "llama"
    tokenizers["byte_level"](folder)
    return folder, save_llama(folder)


@pytest.fixture(scope="module")
def base(public, tmp_path_factory):
    """The base that it is imported as."""
    out = tmp_path_factory.mktemp("bases") / "llama"
    import_model(ModelImport(str(public[0]), str(out)))
    return out


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for path, leaf in jax.tree_util.tree_leaves_with_path(left):
        other = np.asarray(dict(_flat(right))[path_name(path)])
        assert other.dtype == leaf.dtype
        assert np.asarray(leaf).tobytes() == other.tobytes(), path_name(path)


def _flat(tree):
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def numbers(out):
    base = load_base(out)
    return base.config, jax.tree.map(np.asarray, base.params)


def written_files(out):
    """Return the modification time of each file of the arrays, finished or not, by array and number."""
    files = [*out.glob(".conversion/0/state/*/[0-9]*"), *out.glob("checkpoints/0/state/*/[0-9]*")]
    # TensorStore writes to NAME.__lock, which a kill leaves, and renames it.
    return {(f.parent.name, f.name): f.stat().st_mtime_ns for f in files if not f.name.endswith(".__lock")}


def neox(directory):
    shape = {name: value for name, value in SHAPE.items() if name != "attn_implementation"}
    GPTNeoXForCausalLM(GPTNeoXConfig(**shape)).save_pretrained(directory)


@pytest.mark.parametrize(
    "make",
    [
        save_llama,
        lambda folder: save_llama(folder, torch.bfloat16, "1GB", tie_word_embeddings=True),
        lambda folder: save_llama(folder, torch.float16, "1GB", num_hidden_layers=5),
        neox,
    ],
    ids=["shards", "bfloat16, tied", "float16, five layers", "fused, NeoX"],
)
def test_base_equals_the_files_bit_for_bit(make, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_stream, "PIECE_BYTES", 700)
    make(tmp_path / "public")
    config, params = load_model(tmp_path / "public")
    import_model(ModelImport(str(tmp_path / "public"), str(tmp_path / "out")))
    assert len(written_files(tmp_path / "out")) > 50
    converted, stored = numbers(tmp_path / "out")
    assert converted == config
    assert_same(params, stored)
    plain = {f"trainable.{name.replace('/', '.')}": np.asarray(leaf) for name, leaf in _flat(params)}
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["arrays_digest"] == digest(plain)
    assert not (tmp_path / "out" / import_directory.WORK).exists()


def test_other_dtype_is_rounded(public, tmp_path):
    import_model(ModelImport(str(public[0]), str(tmp_path / "out"), "bfloat16"))
    expected = jax.tree.map(lambda leaf: np.asarray(leaf.astype(jnp.bfloat16)), load_model(public[0])[1])
    assert_same(expected, numbers(tmp_path / "out")[1])


def test_checkpoint_files_follow_the_shards_of_a_mesh(public, base, tmp_path):
    import_model(ModelImport(str(public[0]), str(tmp_path / "out"), sharding=ShardingConfig(fsdp=4, tensor=2)))
    chunks = {
        file.parent.name: json.loads(file.read_text())["chunks"]
        for file in tmp_path.glob("out/checkpoints/0/state/*/.zarray")
    }
    assert chunks["trainable.layers.feed_forward.gate.kernel"] == [2, 8, 24]
    assert chunks["trainable.embedding"] == [176, 8]
    assert chunks["trainable.final_norm.scale"] == [32]
    assert_same(numbers(base)[1], numbers(tmp_path / "out")[1])


def test_orbax_reads_the_checkpoint(base):
    manager = ocp.CheckpointManager(base / "checkpoints")
    assert manager.all_steps() == [0]
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore())
    found = manager.restore(0, args=arguments)
    assert found.facts["public"]["family"] == "llama"
    np.testing.assert_array_equal(found.state["trainable.embedding"], numbers(base)[1]["embedding"])
    assert len(written_files(base)) == len(found.state)  # one file per leaf, since none exceeds a piece


class StoppedError(Exception):
    """Raised to interrupt an import."""


def stop(*_):
    raise StoppedError


KILLED_AT_PIECE_30 = """
import itertools, os, signal, sys
from finetune_scaling.interop import checkpoint_stream, model_import
checkpoint_stream.PIECE_BYTES = 2000
numbers, read = itertools.count(), checkpoint_stream.Leaf.read
def read_or_die(*arguments):
    if next(numbers) == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*arguments)
checkpoint_stream.Leaf.read = read_or_die
model_import.import_model(model_import.ModelImport(sys.argv[1], sys.argv[2]))
"""


def check_resumed(public, base, out, monkeypatch):
    """Import again: nothing is written twice, and the base is that of an uninterrupted import."""
    before = written_files(out)
    monkeypatch.setattr(checkpoint_stream, "PIECE_BYTES", 2000)
    record = import_model(ModelImport(str(public[0]), str(out)))
    after = written_files(out)
    assert before == {name: after[name] for name in before}
    assert record["arrays_digest"] == json.loads((base / "result.json").read_text())["arrays_digest"]
    assert_same(numbers(base)[1], numbers(out)[1])
    return len(before), len(after)


def test_killed_import_resumes(public, base, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED_AT_PIECE_30, str(public[0]), str(out)]
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == -signal.SIGKILL
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_base(out)
    assert inspect(out)["state"] == "started"
    before, after = check_resumed(public, base, out, monkeypatch)
    in_flight = checkpoint_stream._THREADS  # pieces that were read but not yet written
    assert 30 - in_flight <= before <= 30
    assert after > 100


@pytest.mark.parametrize("place", ["_complete", "pathlib.Path.rename", "_finish"])
def test_import_that_stopped_after_its_last_piece_resumes(public, base, tmp_path, place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_stream, "PIECE_BYTES", 2000)
        patch.setattr(place if "." in place else f"finetune_scaling.interop.model_import.{place}", stop)
        with pytest.raises(StoppedError):
            import_model(ModelImport(str(public[0]), str(tmp_path)))
    assert not (tmp_path / "result.json").exists()
    before, after = check_resumed(public, base, tmp_path, monkeypatch)
    assert before == after


def test_unfinished_import_of_other_settings_is_discarded(public, base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(model_import, "_complete", stop)
        with pytest.raises(StoppedError):
            import_model(ModelImport(str(public[0]), str(tmp_path), "bfloat16"))
    import_model(ModelImport(str(public[0]), str(tmp_path)))
    assert_same(numbers(base)[1], numbers(tmp_path)[1])


def test_tokenizer_may_be_the_copy_in_the_base(public, base, tmp_path, monkeypatch):
    monkeypatch.setattr(model_import, "_write_checkpoint", stop)
    files = {file.name: file.read_bytes() for file in (base / "tokenizer").iterdir()}
    for tokenizer in ("", str(tmp_path / "tokenizer")):  # the model's own, then its copy in the base
        with pytest.raises(StoppedError):
            import_model(ModelImport(str(public[0]), str(tmp_path), tokenizer=tokenizer))
        assert {file.name: file.read_bytes() for file in (tmp_path / "tokenizer").iterdir()} == files
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text("")  # left by another tokenizer
    with pytest.raises(StoppedError):
        import_model(ModelImport(str(public[0]), str(tmp_path)))
    assert {file.name for file in (tmp_path / "tokenizer").iterdir()} == set(files)


@pytest.mark.parametrize("name", ["vocab.json", "tekken.json", "spiece.model", "tokenizer.model.v3"])
def test_tokenizer_in_other_files_is_refused(public, name, tmp_path):
    folder = tmp_path / "public"
    shutil.copytree(public[0], folder)
    (folder / "tokenizer.json").rename(folder / name)
    with pytest.raises(DataError, match=r"From other files, .* transformers writes a tokenizer\.json"):
        import_model(ModelImport(str(folder), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_tokenizer_is_checked_before_weights_are_fetched(public, tmp_path, monkeypatch):
    monkeypatch.setattr(import_source, "fetch_weights", stop)
    folder = tmp_path / "public"
    shutil.copytree(public[0], folder)
    with pytest.raises(StoppedError):
        import_model(ModelImport(str(folder), str(tmp_path / "out")))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a file of the tokenizers library"):
        import_model(ModelImport(str(folder), str(tmp_path / "out")))


def test_base_and_export_keep_all_chat_templates(public, tmp_path):
    folder, base, export = tmp_path / "public", tmp_path / "base", tmp_path / "export"
    shutil.copytree(public[0], folder)
    (folder / "additional_chat_templates").mkdir()
    for name in ("chat_template", "additional_chat_templates/rag", "additional_chat_templates/tool_use"):
        (folder / f"{name}.jinja").write_text(name)
    import_model(ModelImport(str(folder), str(base)))
    export_run(RunExport(str(base), model=str(export)))
    templates = AutoTokenizer.from_pretrained(folder).chat_template
    assert templates.keys() == {"default", "rag", "tool_use"}
    for copied in (base / "tokenizer", export):
        assert AutoTokenizer.from_pretrained(copied).chat_template == templates


def test_finished_import_is_kept(public, base, tmp_path):
    before = (base / "result.json").stat().st_mtime_ns
    import_model(ModelImport(str(public[0]), str(base)))
    assert (base / "result.json").stat().st_mtime_ns == before
    with pytest.raises(WorkdirError, match=r"public.dtype"):
        import_model(ModelImport(str(public[0]), str(base), "bfloat16"))
    with pytest.raises(WorkdirError, match=r"mesh\.fsdp"):
        import_model(ModelImport(str(public[0]), str(base), sharding=ShardingConfig(fsdp=2)))
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(WorkdirError, match=r"thesis.tex"):
        import_model(ModelImport(str(public[0]), str(tmp_path)))
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("model.safetensors", "weights.model.safetensors"),
        ("config.json", "config_sha256"),
        ("tokenizer", "tokenizer_sha256"),
    ],
)
def test_finished_import_of_changed_files_is_rejected(name, field, tokenizers, tmp_path):
    source, out = tmp_path / "public", tmp_path / "out"
    save_llama(source, max_shard_size="1GB")
    import_model(ModelImport(str(source), str(out)))
    if name == "tokenizer":
        tokenizers["byte_level"](source)
    elif name == "config.json":
        fields = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps({**fields, "bos_token_id": 5}))
    else:
        os.utime(source / name, ns=(0, 0))
    with pytest.raises(WorkdirError, match=rf"other files .*{field}"):
        import_model(ModelImport(str(source), str(out)))


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.model", "checkpoints/7/facts", "result.json"])
def test_unrelated_files_are_kept(public, tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("years of work")
    with pytest.raises(WorkdirError, match=rf"holds other files \({name.partition('/')[0]}\)"):
        import_model(ModelImport(str(public[0]), str(tmp_path)))
    assert file.read_text() == "years of work"


def test_unrelated_config_is_rejected(public, tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WorkdirError, match=r"holds other files \(config.json\)"):
        import_model(ModelImport(str(public[0]), str(tmp_path)))


def test_import_resumes_after_the_disk_was_full(public, base, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root's rights")
    monkeypatch.setattr(model_import, "_SPARE_BYTES", 0)
    try:
        with pytest.raises(WorkdirError, match=r"needs .* bytes"):
            import_model(ModelImport(str(public[0]), str(disk / "out")))
        with monkeypatch.context() as patch:
            patch.setattr(model_import, "_check_space", lambda *_: None)
            with pytest.raises(WorkdirError, match="the disk is full; free some space"):
                import_model(ModelImport(str(public[0]), str(disk / "out")))
        assert not (disk / "out" / "checkpoints" / "0").exists()
        subprocess.run(["mount", "-o", "remount,size=5m", str(disk)], check=True)
        import_model(ModelImport(str(public[0]), str(disk / "out")))
        assert_same(numbers(base)[1], numbers(disk / "out")[1])
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def sentences(count):
    words = ("the", "quick", "fox", "lazy", "dog", "jumps")
    return [" ".join(words[(i * k + k) % len(words)] for k in range(1, 4)) for i in range(count)]


@pytest.fixture(scope="module")
def config(base, tmp_path_factory):
    """config("lora", **changes): a finetuning run of a few steps on JSONL files."""
    data = tmp_path_factory.mktemp("data")
    for split, count in (("train", 24), ("dev", 8), ("test", 8)):
        lines = [json.dumps({"en": text, "de": text.upper()}) for text in sentences(count)]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    task = jsonl_task(
        name="jsonl", kind="translation", languages=("en", "de"), fields=("en", "de"), train="train.jsonl",
        dev="dev.jsonl", test={"test": "test.jsonl"}, template={"input": "{source} =", "target": " {target}"},
        sources={"data_dir": str(data)},
    )  # fmt: skip
    options = {"full": {}, "lora": {"rank": 2, "targets": ("query", "down")}}

    def make(method, **changes):
        return {
            "name": method,
            "task": configuration.plain(task),
            "method": {"name": method, **options[method]},
            "base": {"run": str(base)},
            "tokenizer": str(base / "tokenizer"),
            "sequence": {"length": 48, "max_source_tokens": 20, "max_target_tokens": 24},
            "batch": {"size": 8},
            "limits": {"max_steps": 3},
            "evaluation": {"times": 1, "batch_size": 8, "generate_examples": 2},
            **changes,
        }

    return make


def test_the_first_loss_is_transformers(public, config):
    run_config = read_run_config(config("full"))
    data, model = prepare_run_data(run_config), initialize_model(run_config)
    with model.sharding.use_mesh():
        losses = row_losses(model, data.dev)
    tokenizer = load_tokenizer(run_config.tokenizer)
    encoded = encode_examples(data.task.examples("dev"), tokenizer, data.task.template, data.format)
    sums = []
    for i in range(8):
        sequence = encoded.sequence(i, data.format)
        ids = torch.from_numpy(np.asarray(sequence.tokens, np.int64))[None]
        with torch.no_grad():
            logits = torch.log_softmax(public[1](ids).logits[0], -1)
        chosen = logits[torch.arange(ids.shape[1]), torch.from_numpy(np.asarray(sequence.targets, np.int64))]
        sums.append(-float((chosen * torch.from_numpy(sequence.weights)).sum()))
    np.testing.assert_allclose(sorted(losses.sums), sorted(sums), rtol=1e-4)


def test_a_base_is_tuned_scored_and_inspected(config, base, tmp_path, shared_cache):
    record = train(config("lora"), tmp_path / "run")
    assert record["steps"] == 3
    assert record["pretrain_tokens"] is None
    assert np.isfinite(record["loss"])
    assert set(record["tests"]["test"]["metrics"]) >= {"bleu", "chrf"}
    assert inspect(tmp_path / "run")["base"]["run"] == str(base)
    shown = format_inspection(inspect(base))
    assert "family llama" in shown
    assert record["base_digest"] in shown
    choose = lambda *_: {"dev": TaskEvaluator(examples=4, generate=2)}  # noqa: E731
    options = EvaluationOptions()
    assert not run_evaluations(plan_evaluations([str(tmp_path / "run")], choose, options), options)
    scored = json.loads((tmp_path / "run" / "evaluation" / "dev.json").read_text())
    assert scored["loss"] != scored["untuned"]["loss"]


def test_pretrain_tokens_are_recorded(public, config, tmp_path):
    import_model(ModelImport(str(public[0]), str(tmp_path / "out"), pretrain_tokens=300_000_000_000))
    assert pretrain_tokens(load_base(tmp_path / "out").metadata) == 300_000_000_000


def test_moved_base_finds_its_tokenizer(base, config, tmp_path):
    shutil.copytree(base, tmp_path / "moved")
    assert find_run(tmp_path / "moved").run_config.tokenizer == str(tmp_path / "moved" / "tokenizer")
    assert find_base(read_run_config(config("full", base={"run": str(tmp_path / "moved")})).base).metadata["step"] == 0


@pytest.mark.parametrize("kind", ["byte_level", "sentence_pieces"])
def test_tokenizer_is_imported(kind, tokenizers, tmp_path):
    tokenizers[kind](tmp_path / "public")
    save_llama(tmp_path / "public", max_shard_size="1GB")
    record = import_model(ModelImport(str(tmp_path / "public"), str(tmp_path / "out")))
    assert load_tokenizer(tmp_path / "out" / "tokenizer").digest == record["tokenizer_sha256"]
    assert load_tokenizer(tmp_path / "public").digest == record["tokenizer_sha256"]


def test_public_tokenizer_has_no_mode_tokens(config):
    changed = config("full", sequence={**config("full")["sequence"], "mode": "S"})
    with pytest.raises(ConfigError, match=r"sequence.mode = 'S', but the tokenizer has no mode tokens"):
        prepare_run_data(read_run_config(changed))


def test_model_without_a_tokenizer(public, tokenizers, config, tmp_path):
    save_llama(tmp_path / "public", max_shard_size="1GB")
    out = tmp_path / "out"
    assert import_model(ModelImport(str(tmp_path / "public"), str(out)))["tokenizer_sha256"] is None
    initialize_model(read_run_config(config("full", base={"run": str(out)})))
    with pytest.raises(DataError, match="tokenizer is empty: the public model was converted without its files"):
        load_tokenizer(json.loads((out / "config.json").read_text())["tokenizer"])
    save_llama(tmp_path / "small", max_shard_size="1GB", vocab_size=100)
    import_model(ModelImport(str(tmp_path / "small"), str(tmp_path / "few")))
    with pytest.raises(CheckpointError, match=r"has embeddings of 100 ids and .* has 340"):
        initialize_model(read_run_config(config("full", base={"run": str(tmp_path / "few")})))
    with pytest.raises(DataError, match="has 340 ids, but the model has 100 embeddings"):
        import_model(ModelImport(str(tmp_path / "small"), str(tmp_path / "none"), tokenizer=str(public[0])))
    assert not (tmp_path / "none").exists()


def test_rejected_source_leaves_no_directory(public, tmp_path):
    save_llama(tmp_path / "public", max_shard_size="1GB")
    fields = json.loads((tmp_path / "public" / "config.json").read_text())
    (tmp_path / "public" / "config.json").write_text(json.dumps({**fields, "hidden_size": 40, "head_dim": 8}))
    with pytest.raises(CheckpointError, match=r"config.json implies"):
        import_model(ModelImport(str(tmp_path / "public"), str(tmp_path / "out")))
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        import_model(ModelImport(str(tmp_path / "nowhere"), str(tmp_path / "out")))
    with pytest.raises(CheckpointError, match="@main"):
        import_model(ModelImport(f"{public[0]}@main", str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_imported_base_is_not_trained(base, tmp_path):
    config = json.loads((base / "config.json").read_text())
    with pytest.raises(ConfigError, match="public marks a converted model"):
        train(config, tmp_path)


def test_checkpoint_of_other_token_ids_is_refused(config, tmp_path):
    """Of runs that were trained when prompts still ended in a lone space."""
    task = {**config("lora")["task"], "template": {"input": "{source_language}: {source}\n{target_language}: "}}
    run_config = read_run_config(config("lora", task=task))
    tokenizer = load_tokenizer(run_config.tokenizer)
    trained, imported = {"position": {"step": 3}}, {"position": {"step": 0}}
    same = {**trained, "encoding": task_encoder(run_config, tokenizer).identity}
    for metadata in (imported, same):
        check_same_encoding(tmp_path, metadata, run_config, tokenizer)
    with pytest.raises(CheckpointError, match="other token ids of the same examples"):
        check_same_encoding(tmp_path, trained, run_config, tokenizer)
    check_same_encoding(tmp_path, trained, read_run_config(config("lora")), tokenizer)
