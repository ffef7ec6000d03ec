"""Prepared corpora: batches equal those of the text, bytes do not depend on workers, interruptions, and damage.

The steps run in this process, with the shards in another order, where a test does not ask for Beam.
"""

import json
import os
import pickle
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune_scaling.data.corpus import CorpusPart, CorpusTexts, document_counts
from finetune_scaling.data.loader import encode_corpus, iterate, pretraining_batches
from finetune_scaling.data.objectives import ObjectiveConfig, max_text_tokens
from finetune_scaling.data.preparation import directory, duplicates, pipeline, shards
from finetune_scaling.data.preparation.directory import prepare_shards
from finetune_scaling.data.preparation.prepared import open_prepared
from finetune_scaling.data.preparation.settings import Filters, Preparation
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer
from finetune_scaling.errors import ConfigError, DataError, WorkdirError
from finetune_scaling.prepare import shards_of_run
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import prepare_run_data

ROOT = Path(__file__).parents[2]
TINY = runpy.run_path(str(ROOT / "tests/tiny.py"))
LENGTH = 64
WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=2 + i % 5)) for i in range(300)]
# Short texts, long ones that are split, ones that occur several times, and one with SentencePiece's space.
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=1 + (i % 17) * (1 + 9 * (i % 7 == 0)))) for i in range(200)]
TEXTS[50] = TEXTS[120] = TEXTS[3]
TEXTS[60] = TEXTS[199]
TEXTS[70] = "a ▁ b"
OBJECTIVES = ["causal", "prefix_lm", "ul2"]
KEEP_ALL = Filters()


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[CorpusPart, ...]:
    """The texts as two files of unequal sizes."""
    folder = tmp_path_factory.mktemp("text")
    for name, texts in (("a", TEXTS[:77]), ("b", TEXTS[77:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return tuple(CorpusPart({"kind": "files", "path": str(folder / f"{name}.jsonl")}) for name in "ab")


@pytest.fixture
def here(monkeypatch) -> None:
    """Run the steps in this process."""
    monkeypatch.setattr(directory, "write_shards", write_here)
    monkeypatch.setattr(directory, "find_duplicates", find_duplicates_here)


def require_beam() -> None:
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (pip install -e .[beam])")


def write_here(preparation, numbers, folder, beam_flags):
    for number in reversed(numbers):
        shards.write_shard(preparation, number, folder)


def find_duplicates_here(preparation, folder, beam_flags):
    by_bucket: dict = {}
    by_shard: dict = {}
    for number in reversed(range(preparation.shards)):
        for bucket, digests in duplicates.hash_shard(preparation, number):
            by_bucket.setdefault(bucket, []).append(digests)
    for bucket in by_bucket.values():
        for shard, positions in duplicates.find_repeats(bucket):
            by_shard.setdefault(shard, []).append(positions)
    for shard, positions in by_shard.items():
        duplicates.write_repeats(shard, positions, folder)


def preparation_of(parts, tokenizer, objective="causal", shards=5, filters=KEEP_ALL) -> Preparation:
    chunk_tokens = max_text_tokens(LENGTH, ObjectiveConfig(objective))
    return Preparation(parts, tuple(document_counts(parts)), tokenizer, chunk_tokens, shards, filters)


def prepared_batches(preparation, folder, objective="causal", seed=0):
    documents = open_prepared(folder, preparation.parts, preparation.tokenizer, preparation.chunk_tokens)
    config = ObjectiveConfig(objective)
    return pretraining_batches(documents, preparation.tokenizer, config, batch_size=3, length=LENGTH, seed=seed)


def direct_batches(texts, tokenizer, objective="causal", seed=0):
    config = ObjectiveConfig(objective)
    documents = encode_corpus(texts, tokenizer, config, LENGTH)
    return pretraining_batches(documents, tokenizer, config, batch_size=3, length=LENGTH, seed=seed)


def assert_same(left, right):
    """Compare every array of batches of two epochs and of much later ones."""
    assert left.statistics == right.statistics
    assert left.rows_per_epoch == right.rows_per_epoch
    for step in [*range(2 * left.rows_per_epoch // 3 + 1), 12_345]:
        ours, theirs = left[step], right[step]
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_prepared_batches_equal_batches_of_the_text(parts, tokenizer, tmp_path, here, objective):
    preparation = preparation_of(parts, tokenizer, objective)
    prepare_shards(preparation, tmp_path)
    for seed in (0, 7):
        ours = prepared_batches(preparation, tmp_path, objective, seed)
        assert_same(ours, direct_batches(TEXTS, tokenizer, objective, seed))


def test_weighted_parts_select_the_same_documents_as_without_preparation(parts, tokenizer, tmp_path, here):
    parts = tuple(CorpusPart(part.source, weight=weight) for part, weight in zip(parts, (1.0, 0.5), strict=True))
    preparation = preparation_of(parts, tokenizer)
    assert preparation.counts == (77, 38)
    prepare_shards(preparation, tmp_path / "out")
    assert_same(prepared_batches(preparation, tmp_path / "out"), direct_batches(CorpusTexts(parts), tokenizer))


def test_a_run_reads_the_same_batches_with_corpus_prepared(tmp_path, here):
    config = TINY["pretrain"]()
    config["tokenizer"] = str(tmp_path / "tokenizer")
    part = CorpusPart(config["corpus"]["train"][0]["source"])
    train_tokenizer(CorpusTexts([part]), TokenizerConfig(**TINY["TOKENIZER"]), tmp_path / "tokenizer")
    run_config = read_run_config(config)
    prepare_shards(shards_of_run(run_config, 3, Filters()), tmp_path / "out")
    config["corpus"]["prepared"] = str(tmp_path / "out")
    assert_same(prepare_run_data(read_run_config(config)).train, prepare_run_data(run_config).train)


def test_duplicates_and_lengths_are_filtered_and_counted(parts, tokenizer, tmp_path, here):
    filters = Filters(drop_duplicates=True, min_tokens=4, max_tokens=150)
    preparation = preparation_of(parts, tokenizer, filters=filters)
    statistics = prepare_shards(preparation, tmp_path / "out")
    unique = list(dict.fromkeys(TEXTS))
    lengths = {text: len(tokenizer.encode(text)) for text in unique}
    kept = [text for text in unique if 4 <= lengths[text] <= 150]
    direct = direct_batches(kept, tokenizer)
    assert statistics["documents"] == len(kept)
    assert statistics["duplicates"] == len(TEXTS) - len(unique) >= 3
    assert statistics["empty_documents"] == 0
    assert statistics["too_short"] == sum(0 < length < 4 for length in lengths.values()) > 0
    assert statistics["too_long"] == sum(length > 150 for length in lengths.values()) > 0
    assert statistics["text_tokens"] == sum(map(lengths.get, kept))
    ours = prepared_batches(preparation, tmp_path / "out")
    assert_same(ours, direct)


@pytest.mark.slow
def test_any_number_and_kind_of_workers_writes_the_same_bytes(parts, tokenizer, tmp_path, request):
    require_beam()
    preparation = preparation_of(parts, tokenizer, shards=7, filters=Filters(drop_duplicates=True))
    flags = {
        "one": [],
        "threads": ["--direct_num_workers=3", "--direct_running_mode=multi_threading"],
        "processes": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    }
    for name, beam_flags in flags.items():
        prepare_shards(preparation, tmp_path / name, beam_flags)
    request.getfixturevalue("here")
    prepare_shards(preparation, tmp_path / "here")
    assert len(contents(tmp_path / "here")) == 3 + 7 * 4
    assert all(contents(tmp_path / name) == contents(tmp_path / "here") for name in flags)


def test_finished_shards_are_kept_and_the_others_rewritten(parts, tokenizer, tmp_path, here):
    preparation = preparation_of(parts, tokenizer, shards=8)
    out = tmp_path / "out"
    prepare_shards(preparation, out)
    before = contents(out)
    damages = {
        "00001.array_record": lambda path: path.unlink(),
        "00002.array_record": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        "00003.json": lambda path: path.unlink(),  # as if killed before writing the last file
        "00004.json": lambda path: path.write_text("{"),
        "00005.npy": lambda path: path.write_bytes(b""),
        "00006.npy": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    }
    for name, damage in damages.items():
        damage(out / "shards" / name)
    (out / "shards" / ".00007.json.half").write_text("half")
    (out / "statistics.json").unlink()
    inodes = {path.name: path.stat().st_ino for path in (out / "shards").iterdir()}
    prepare_shards(preparation, out)
    assert contents(out) == before
    again = {path.name for path in (out / "shards").iterdir() if inodes.get(path.name) != path.stat().st_ino}
    assert {name[:5] for name in again} == {"00001", "00002", "00003", "00004", "00005", "00006"}


def test_damaged_repeats_are_computed_again(parts, tokenizer, tmp_path, here):
    preparation = preparation_of(parts, tokenizer, filters=Filters(drop_duplicates=True))
    prepare_shards(preparation, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out/shards/00003.json").unlink()
    (tmp_path / "out/shards/00003.repeats.npy").write_bytes(b"")
    prepare_shards(preparation, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_failed_worker_leaves_finished_shards_and_no_statistics(parts, tokenizer, tmp_path, monkeypatch):
    require_beam()
    preparation = preparation_of(parts, tokenizer, shards=6)
    complete, out = tmp_path / "complete", tmp_path / "out"
    prepare_shards(preparation, complete)
    write = shards.write_shard

    def fails(preparation, number, folder):
        if number == 4:
            raise RuntimeError("the worker is lost")
        write(preparation, number, folder)

    monkeypatch.setattr(pipeline, "write_shard", fails)
    with pytest.raises(RuntimeError, match="the worker is lost"):
        prepare_shards(preparation, out)
    assert not (out / "statistics.json").exists()
    with pytest.raises(DataError, match=r"statistics\.json is missing.*not finished.*prepare shards"):
        prepared_batches(preparation, out)
    monkeypatch.undo()
    prepare_shards(preparation, out)
    assert contents(out) == contents(complete)


@pytest.fixture
def config(parts, tokenizer, tmp_path) -> Path:
    """A pretraining config of the two files."""
    tokenizer.save(tmp_path / "tokenizer")
    mapping = {**TINY["pretrain"](), "tokenizer": str(tmp_path / "tokenizer"), "sequence": {"length": LENGTH}}
    mapping["corpus"] = {
        "train": [{"source": dict(part.source), "field": "text"} for part in parts],
        "dev": [{"source": dict(parts[0].source), "field": "text"}],
    }
    path = tmp_path / "config.py"
    path.write_text(f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({mapping!r})\n")
    return path


COPY = """
import sys
from etils import epath
source, target = map(epath.Path, sys.argv[1:])
for path in [*source.glob("*"), *source.glob("shards/*")]:
    if not path.is_dir():
        copy = target / str(path).removeprefix(f"{source}/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
"""


def start(config: Path, out: Path | str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "finetune_scaling.prepare", "shards", f"--config={config}", f"--out={out}"]
    return subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, errors = process.communicate()
    return process.returncode, out, errors


@pytest.mark.slow
def test_a_killed_command_resumes_to_the_same_bytes(config, parts, tokenizer, tmp_path, here):
    require_beam()
    arguments = ["--shards=150", "--drop_duplicates"]
    out = tmp_path / "killed"
    killed = start(config, out, *arguments)
    deadline = time.monotonic() + 120
    while len(list(out.glob("shards/*.json"))) < 3 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    finish(killed)
    done = {path.name: path.stat().st_ino for path in out.glob("shards/*.json")}
    assert 3 <= len(done) < 150
    code, printed, errors = finish(start(config, out, *arguments))
    assert (code, "150 shards" in printed) == (0, True), errors
    preparation = preparation_of(parts, tokenizer, shards=150, filters=Filters(drop_duplicates=True))
    prepare_shards(preparation, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert all((out / "shards" / name).stat().st_ino == inode for name, inode in done.items())


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """An emulated object store's bucket, as a URL."""
    for module in ("apache_beam", "gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = f"from gcp_storage_emulator.server import create_server as c; c('127.0.0.1', {port}, True, 'bkt').run()"
    server = subprocess.Popen([sys.executable, "-c", serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    yield "gs://bkt"
    server.kill()
    server.wait()


@pytest.mark.slow
def test_an_object_store_gets_the_same_files_and_resumes(config, parts, tokenizer, tmp_path, bucket, here):
    code, printed, errors = finish(start(config, f"{bucket}/a/out", "--shards=3"))
    assert (code, "3 shards" in printed) == (0, True), errors
    again, absent = start(config, f"{bucket}/a/out", "--shards=3"), start(config, "gs://nobucket/out", "--shards=3")
    code, _, errors = finish(again)
    assert (code, "0 of 3 shards are missing" in errors) == (0, True)
    code, _, errors = finish(absent)
    assert (code, errors.count("error: gs://nobucket/out")) == (2, 1), errors
    remote = subprocess.run(
        [sys.executable, "-c", COPY, f"{bucket}/a/out", str(tmp_path / "copy")], capture_output=True, text=True
    )
    assert remote.returncode == 0, remote.stderr
    prepare_shards(preparation_of(parts, tokenizer, shards=3), tmp_path / "out")
    assert contents(tmp_path / "copy") == contents(tmp_path / "out")
    with pytest.raises(DataError, match="is a URL"):
        open_prepared(f"{bucket}/a/out", (), None, 1)


@pytest.mark.parametrize("step", ["write_shard", "hash_shard"])
def test_an_error_in_the_text_of_a_shard_is_raised_by_the_command(parts, tokenizer, tmp_path, monkeypatch, step):
    require_beam()
    module = pipeline if step == "write_shard" else duplicates
    original = getattr(module, step)

    def fails(preparation, number, *folder):
        if number == 2:
            raise DataError("record 7 is not text")
        return original(preparation, number, *folder)

    monkeypatch.setattr(module, step, fails)
    preparation = preparation_of(parts, tokenizer, filters=Filters(drop_duplicates=step == "hash_shard"))
    with pytest.raises(DataError, match=r"^record 7 is not text$"):
        prepare_shards(preparation, tmp_path)
    written = {path.name for path in (tmp_path / "shards").iterdir()} - {"00002.failure"}
    assert {name[:5] for name in written} == ({"00000", "00001", "00003", "00004"} if step == "write_shard" else set())
    monkeypatch.undo()
    assert prepare_shards(preparation, tmp_path)["chunks"] > 0


def test_without_beam_the_error_names_the_extra(parts, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"needs Apache Beam.*pip install -e \.\[beam\]"):
        prepare_shards(preparation_of(parts, tokenizer), tmp_path / "out")
    assert not list((tmp_path / "out/shards").iterdir())


def test_a_corpus_prepared_for_another_run_is_an_error(parts, tokenizer, tmp_path, here):
    preparation = preparation_of(parts, tokenizer)
    out = tmp_path / "out"
    prepare_shards(preparation, out)
    chunk = preparation.chunk_tokens
    other = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=390, sentinels=30), tmp_path / "other")
    with pytest.raises(DataError, match=r"another tokenizer_sha256 than"):
        open_prepared(out, parts, other, chunk)
    with pytest.raises(DataError, match=r"another chunk_tokens than.*sequence\.length"):
        open_prepared(out, parts, tokenizer, 9)
    changed = (parts[0], CorpusPart({"kind": "files", "path": "/c.jsonl"}))
    with pytest.raises(DataError, match=r"another train\[1\]\.source\.path than"):
        open_prepared(out, changed, tokenizer, chunk)
    with pytest.raises(DataError, match=r"another train\[1\]"):
        open_prepared(out, parts[:1], tokenizer, chunk)
    with pytest.raises(DataError, match="not finished"):
        open_prepared(tmp_path / "none", parts, tokenizer, chunk)


def test_missing_and_damaged_files_are_an_error(parts, tokenizer, tmp_path, here):
    preparation = preparation_of(parts, tokenizer)
    out = tmp_path / "out"
    prepare_shards(preparation, out)
    records = out / "shards/00003.array_record"
    complete, index = records.read_bytes(), (out / "index.npy").read_bytes()
    records.unlink()
    with pytest.raises(DataError, match=r"00003\.array_record is missing or damaged.*prepare shards"):
        prepared_batches(preparation, out)
    records.write_bytes(complete[:-1])
    with pytest.raises(DataError, match=rf"00003\.array_record is missing or damaged \({len(complete)} bytes expected"):
        prepared_batches(preparation, out)
    flipped = bytearray(complete)
    flipped[70_000 if len(complete) > 150_000 else 200] ^= 1
    for damaged in (bytes(flipped), bytes(len(complete))):
        records.write_bytes(damaged)
        batches = prepared_batches(preparation, out)
        with pytest.raises(DataError, match=r"00003\.array_record is missing or damaged"):
            [batches[step] for step in range(60)]
        with pytest.raises(DataError, match=r"00003\.array_record is missing or damaged"):
            [batch for batch, _ in zip(iterate(batches), range(60), strict=False)]
    records.unlink()
    prepare_shards(preparation, out)  # the fix
    assert records.read_bytes() == complete
    (out / "index.npy").write_bytes(index[:-2])
    with pytest.raises(DataError, match=r"index\.npy is missing or damaged.*run the same"):
        prepared_batches(preparation, out)
    prepare_shards(preparation, out)
    assert_same(prepared_batches(preparation, out), direct_batches(TEXTS, tokenizer))


def test_other_settings_are_an_error_that_names_them(parts, tokenizer, tmp_path, here):
    prepare_shards(preparation_of(parts, tokenizer), tmp_path)
    filters = Filters(drop_duplicates=True, max_tokens=9)
    with pytest.raises(WorkdirError, match=r"different in drop_duplicates, max_tokens;"):
        prepare_shards(preparation_of(parts, tokenizer, filters=filters), tmp_path)
    with pytest.raises(WorkdirError, match=r"different in corpus\.train, documents_of_parts;"):
        prepare_shards(preparation_of(parts[:1], tokenizer), tmp_path)
    with pytest.raises(WorkdirError, match="different in chunk_tokens, shards;"):
        prepare_shards(preparation_of(parts, tokenizer, "ul2", shards=6), tmp_path)


def test_text_of_which_nothing_is_left_and_a_file_as_directory(parts, tokenizer, tmp_path, here):
    with pytest.raises(DataError, match=r"all documents are dropped \(empty_documents: 0,"):
        prepare_shards(preparation_of(parts, tokenizer, filters=Filters(min_tokens=100_000)), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="file instead of a directory"):
        prepare_shards(preparation_of(parts, tokenizer), tmp_path / "file")


def test_invalid_settings_are_an_error(parts, tokenizer):
    with pytest.raises(ConfigError, match=r"--shards=201 must be in 1\.\.200"):
        preparation_of(parts, tokenizer, shards=201)
    with pytest.raises(ConfigError, match="--max_tokens=3 is below --min_tokens=9"):
        Filters(min_tokens=9, max_tokens=3)
    finetuning = {**TINY["finetune"]("full"), "tokenizer": "x", "base": {"run": "x"}}
    with pytest.raises(ConfigError, match="has no corpus"):
        shards_of_run(read_run_config(finetuning), 1, KEEP_ALL)


def test_tokens_beyond_16_bits_are_kept(parts, tokenizer, tmp_path, here):
    """A tokenizer that claims more than 65,536 ids is stored with the wider type."""

    class Wide(SentencePieceTokenizer):
        def __init__(self, model: bytes, name: str = "wide"):
            super().__init__(model, name)
            self.vocab_size = 2**17

        def __reduce__(self):
            return Wide, (self.model,)

        def encode_batch(self, texts):
            return [[70_000 + i for i in ids] for ids in super().encode_batch(texts)]

    wide = Wide(tokenizer.model)
    assert wide.digest == tokenizer.digest
    preparation = preparation_of(parts, wide)
    prepare_shards(preparation, tmp_path / "out")
    assert_same(prepared_batches(preparation, tmp_path / "out"), direct_batches(TEXTS, wide))


def test_a_pickled_tokenizer_is_the_same(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.digest == tokenizer.digest
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
