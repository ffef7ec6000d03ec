"""Prepare a corpus and read it: python benchmarks/prepare_corpus.py --megabytes=20 --workers=1

Writes grammar text (documents of 1 to 40 sentences sampled from a pool), runs `prepare shards` on it with Beam's
DirectRunner, one process per worker, then reads batches from the shards and from the text. Prints a JSON summary:
seconds, throughput, peak memory (resident, all processes of a command together), and whether the batches are equal;
exits with 1 if they are not.
"""

import hashlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from finetune_scaling import command
from finetune_scaling.data.corpus import CorpusPart, CorpusTexts
from finetune_scaling.data.loader import Batches, iterate
from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer
from finetune_scaling.errors import EXIT_FAILED, TrainingError
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import prepare_run_data
from measuring import peak_memory_mib

_MEGABYTES = flags.DEFINE_integer("megabytes", 20, "Size of the text, in units of 10^6 bytes.", lower_bound=1)
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes of Beam's DirectRunner (1: the command's).", lower_bound=1)
_DROP_DUPLICATES = flags.DEFINE_bool("drop_duplicates", False, "Also drop duplicates; batches are then not compared.")
_BATCHES = flags.DEFINE_integer("batches", 200, "Number of batches to read and compare.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", "", "Working directory; default: a temporary one.")
_READ = flags.DEFINE_string("read", "", "Internal: only read batches, from text or shards.")

POOL = 20_000  # sentences, because the grammar generates less than 1 MB/s
FILE_BYTES = 50_000_000  # per text file, which a worker holds in memory
SHARD_BYTES = 20_000_000
LENGTH, BATCH_SIZE = 512, 32
SECONDS_BETWEEN_SAMPLES = 0.2


class Run(NamedTuple):
    """A finished command: seconds, and the peak memory of it and its children, MiB."""

    seconds: float
    peak_mib: int
    printed: str


def main() -> None:
    """Measure in the working directory and print the summary."""
    if _READ.value:
        print(json.dumps(read(Path(_WORKDIR.value), _READ.value, _BATCHES.value)))
        return
    with tempfile.TemporaryDirectory() as folder:
        summary = measure(Path(_WORKDIR.value or folder))
    print(json.dumps(summary, indent=2))
    if summary.get("identical") is False:
        sys.exit(EXIT_FAILED)


def measure(folder: Path) -> dict[str, Any]:
    """Write, prepare and read text below `folder`; return the summary as plain data."""
    folder.mkdir(parents=True, exist_ok=True)
    size, documents = write_text(folder, _MEGABYTES.value * 10**6)
    preparation = run(prepare_command(folder, max(1, size // SHARD_BYTES)))
    statistics = json.loads((folder / "shards" / "statistics.json").read_text(encoding="utf-8"))
    summary: dict[str, Any] = {
        "text_bytes": size,
        "documents": documents,
        "runner": "DirectRunner",
        "workers": _WORKERS.value,
        "drop_duplicates": _DROP_DUPLICATES.value,
        "prepare_seconds": round(preparation.seconds, 1),
        "prepare_mb_per_second": round(size / 1e6 / preparation.seconds, 2),
        "prepare_peak_mib": preparation.peak_mib,
        "tokens": statistics["text_tokens"],
        "chunks": statistics["chunks"],
        "shard_bytes": statistics["bytes"],
    }
    for origin in ("shards",) if _DROP_DUPLICATES.value else ("shards", "text"):
        facts = json.loads(run(read_command(folder, origin)).printed)
        summary |= {f"{origin}_{name}": value for name, value in facts.items()}
    if not _DROP_DUPLICATES.value:
        summary["identical"] = summary["shards_sha256"] == summary["text_sha256"]
    return summary


def write_text(folder: Path, size: int) -> tuple[int, int]:
    """Write text files of `size` bytes in total, a tokenizer and a config; return the numbers of bytes and texts."""
    source = {"kind": "grammar", "dataset": "monolingual", "split": "train", "size": POOL, "languages": ("A", "B")}
    pool = list(CorpusTexts([CorpusPart({**source, "bilingual_share": 0.25})]))
    train_tokenizer(pool, TokenizerConfig(vocab_size=384, byte_fallback=False, sentinels=100), folder / "tokenizer")
    rng = random.Random(0)
    paths = [folder / f"text{i:03d}.jsonl" for i in range(-(-size // FILE_BYTES))]
    written = documents = 0
    for i, path in enumerate(paths):
        with path.open("w", encoding="utf-8") as file:
            while written < size * (i + 1) // len(paths):
                text = " ".join(rng.choices(pool, k=rng.randint(1, 40)))
                file.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
                documents += 1
    (folder / "dev.jsonl").write_text(json.dumps({"text": pool[0]}) + "\n", encoding="utf-8")
    mapping = run_config(folder, paths)
    lines = ("from ml_collections import ConfigDict", "def get_config():", f"    return ConfigDict({mapping})")
    (folder / "config.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written, documents


def run_config(folder: Path, paths: list[Path]) -> dict[str, Any]:
    """Return the config of a pretraining run on these files with the default objective, UL2."""
    return {
        "model": {"name": "100k"},
        "tokenizer": str(folder / "tokenizer"),
        "corpus": {
            "train": [{"source": {"kind": "files", "path": str(path)}} for path in paths],
            "dev": [{"source": {"kind": "files", "path": str(folder / "dev.jsonl")}}],
        },
        "sequence": {"length": LENGTH},
        "batch": {"size": BATCH_SIZE},
        "limits": {"max_steps": 1},
    }


def prepare_command(folder: Path, shards: int) -> list[str]:
    """Return the command whose time and memory are measured."""
    beam = f"--direct_num_workers={_WORKERS.value}"
    if _WORKERS.value > 1:
        beam += " --direct_running_mode=multi_processing"
    command = [sys.executable, "-m", "finetune_scaling.prepare", "shards", f"--config={folder / 'config.py'}"]
    command += [f"--out={folder / 'shards'}", f"--shards={shards}", f"--beam={beam}"]
    return [*command, "--drop_duplicates"] if _DROP_DUPLICATES.value else command


def read_command(folder: Path, origin: str) -> list[str]:
    """Return the command that reads in a separate process, so that its peak memory is that of reading."""
    return [sys.executable, __file__, f"--read={origin}", f"--workdir={folder}", f"--batches={_BATCHES.value}"]


def read(folder: Path, origin: str, count: int) -> dict[str, Any]:
    """Open the run's data and read prefetched batches as training does; runs in a separate process."""
    paths = sorted(folder.glob("text*.jsonl"))
    config = run_config(folder, paths)
    config["corpus"]["prepared"] = str(folder / "shards") if origin == "shards" else None
    before = peak_memory_mib()
    began = time.perf_counter()
    batches = prepare_run_data(read_run_config(config)).train
    opened = time.perf_counter()
    digest = digest_of(batches, count)
    seconds = time.perf_counter() - opened
    return {
        "open_seconds": round(opened - began, 1),
        "tokens_per_second": round(count * BATCH_SIZE * LENGTH / seconds),
        "peak_mib": peak_memory_mib(),
        "peak_mib_before": before,
        "sha256": digest,
    }


def digest_of(batches: Batches, count: int) -> str:
    """Return a digest of all arrays of the first batches."""
    digest = hashlib.sha256()
    iterator = iterate(batches)
    for _ in range(count):
        for name, array in sorted(next(iterator).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    iterator.close()
    return digest.hexdigest()


def run(arguments: list[str]) -> Run:
    """Run a command and sample its memory. Raises TrainingError with the end of its stderr if it fails."""
    began = time.monotonic()
    peak = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdout=out, stderr=errors, text=True)
        while process.poll() is None:
            peak = max(peak, sum(map(resident_kib, family(process.pid))))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        seconds = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise TrainingError(f"{arguments[1:4]} ended with {process.returncode}: {errors.read()[-2000:]}")
        return Run(seconds, peak // 1024, out.read())


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        children = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # the process has ended
        return []
    return [pid, *(entry for child in itertools.chain.from_iterable(children) for entry in family(int(child)))]


def resident_kib(pid: int) -> int:
    """Return the proportional set size of a process, KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    command.run(main)
