"""Seconds until the data of a finetuning run is ready, in a first process and in later ones, which read stored results.

Each start is a process of its own that opens and checks the data, encodes it, and assembles the first batch, as a run
does before its model is loaded. Sentences are random words; the tokenizer is trained on some of them.

    python benchmarks/start_up.py --pairs=1000000 --starts=3
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from finetune_scaling.data.data_cache import CACHE_VARIABLE
from finetune_scaling.data.task import jsonl_task
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import check_encoding, check_task_data, prepare_run_data

_PAIRS = flags.DEFINE_integer("pairs", 1_000_000, "Pairs of sentences.", lower_bound=1000)
_STARTS = flags.DEFINE_integer("starts", 2, "Starts, one after the other.", lower_bound=1)
_PACK = flags.DEFINE_bool("pack", True, "Pack several examples into a row.")
_START = flags.DEFINE_string("start", None, "Internal: the directory of the data; time one start.")
_WORDS, _HELD_OUT, _TOKENIZER = 20_000, 1000, 8000


def main(_: list[str]) -> None:
    if _START.value is not None:
        print(json.dumps(start(Path(_START.value))))
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_data(directory, _PAIRS.value)
        time.sleep(3)  # files that were changed a moment ago are read again
        command = [sys.executable, __file__, f"--start={directory}", f"--pack={_PACK.value}"]
        environment = {**os.environ, CACHE_VARIABLE: str(directory / "cache")}
        for number in range(_STARTS.value):
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            print(json.dumps({"start": number + 1, "pairs": _PAIRS.value, **json.loads(done.stdout)}), flush=True)
        size = sum(file.stat().st_size for file in (directory / "cache").rglob("*.npy"))
        print(
            json.dumps(
                {"data_mb": _megabytes((directory / "train.jsonl").stat().st_size), "cache_mb": _megabytes(size)}
            )
        )


def start(directory: Path) -> dict[str, float]:
    """Return the seconds of a start until the data is checked, encoded, and batched, and of all processes' CPU time."""
    run_config = read_run_config(_config(directory))
    began = time.perf_counter()
    check_task_data(run_config)
    check_encoding(run_config, load_tokenizer(run_config.tokenizer))
    checked = time.perf_counter()
    data = prepare_run_data(run_config)
    prepared = time.perf_counter()
    data.train[0]
    batched = time.perf_counter()
    cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = {"checked_s": checked - began, "encoded_s": prepared - checked, "batch_s": batched - prepared}
    return {name: round(value, 2) for name, value in {**seconds, "total_s": batched - began, "cpu_s": cpu}.items()}


def write_data(directory: Path, pairs: int) -> None:
    """Write training, dev and test pairs, and a tokenizer."""
    rng = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(_WORDS)]

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(8, 30)))

    for name, count in (("train", pairs), ("dev", _HELD_OUT), ("test", _HELD_OUT)):
        with (directory / f"{name}.jsonl").open("w") as file:
            for _ in range(count):
                file.write(json.dumps({"en": sentence(), "de": sentence()}) + "\n")
    texts = [sentence() for _ in range(20_000)]
    train_tokenizer(texts, TokenizerConfig(vocab_size=_TOKENIZER), directory / "tokenizer")


def _config(directory: Path) -> dict:
    paths = {name: str(directory / f"{name}.jsonl") for name in ("train", "dev", "test")}
    limits = {"max_source_tokens": 128, "max_target_tokens": 128}
    tests = {"test": paths.pop("test")}
    task = jsonl_task("random", "translation", ("en", "de"), ("en", "de"), **paths, test=tests, **limits)
    return {
        "task": task,
        "tokenizer": str(directory / "tokenizer"),
        "model": {"name": "300k"},
        "sequence": {"length": 288},
        "batch": {"size": 16, "pack": _PACK.value},
        "limits": {"max_steps": 1},
    }


def _megabytes(size: int) -> float:
    return round(size / 1e6, 1)


if __name__ == "__main__":
    app.run(main)
