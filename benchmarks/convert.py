"""Time the import of a public model next to a copy of its files, and measure its peak memory.

    python benchmarks/convert.py [--gigabytes=2 --layers=16 --vocabulary=32000 --dtype=bfloat16 --pairs=3]

Makes a random Llama of about that size, then alternately copies its files (with fsync) and imports it with the command.
Prints one JSON object: seconds of each pair, their ratio, the start-up time of the command, its peak memory, and the
ratio of that to the largest stored leaf.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from absl import flags
from safetensors.numpy import save_file

from finetune_scaling import command
from finetune_scaling.errors import TrainingError

_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "Size of the model's files, in units of 10^9 bytes.", lower_bound=0.0)
_LAYERS = flags.DEFINE_integer("layers", 16, "Layers.", lower_bound=1)
_VOCABULARY = flags.DEFINE_integer("vocabulary", 32_000, "Rows of the embedding.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("stored_dtype", "bfloat16", ["bfloat16", "float32", "float16"], "Dtype of the files.")
_PAIRS = flags.DEFINE_integer("pairs", 3, "Number of repetitions.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", "", "Directory for all files; default: a temporary one.")

FILE_BYTES = 500_000_000
POLL_SECONDS = 0.02


def main() -> None:
    """Make the model, measure and print."""
    with tempfile.TemporaryDirectory(dir=_FOLDER.value or None) as folder:
        print(json.dumps(measure(Path(folder)), indent=2))


def measure(folder: Path) -> dict[str, Any]:
    """Return all measurements of a model in `folder`."""
    size, largest = write_model(folder / "model")
    bare = convert(folder / "nowhere", folder / "out")[0]  # fails because there is no such directory
    pairs, peaks = [], []
    for _ in range(_PAIRS.value):
        copied = copy(folder / "model", folder / "copy")
        converted, peak = convert(folder / "model", folder / "out")
        shutil.rmtree(folder / "copy")
        shutil.rmtree(folder / "out")
        pairs.append({"copy_seconds": copied, "convert_seconds": converted, "ratio": converted / copied})
        peaks.append(peak)
    best = min(pairs, key=lambda pair: pair["ratio"])
    return {
        "file_bytes": size,
        "largest_leaf_bytes": largest,
        "start_seconds": bare,
        "pairs": pairs,
        "best_ratio": best["ratio"],
        "best_ratio_without_start": (best["convert_seconds"] - bare) / best["copy_seconds"],
        "peak_bytes": max(peaks),
        "peak_per_largest_leaf": max(peaks) / largest,
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }


def write_model(directory: Path) -> tuple[int, int]:
    """Write a Llama of about the requested size; return the bytes of its files and of its largest stacked leaf."""
    directory.mkdir(parents=True)
    width = np.dtype(getattr(ml_dtypes, _DTYPE.value, _DTYPE.value)).itemsize
    dim = model_dim(_GIGABYTES.value * 1e9 / width)
    shape = {"vocab_size": _VOCABULARY.value, "hidden_size": dim, "intermediate_size": 3 * dim,
             "num_hidden_layers": _LAYERS.value, "num_attention_heads": dim // 64}  # fmt: skip
    others = {"model_type": "llama", "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "dtype": _DTYPE.value}
    (directory / "config.json").write_text(json.dumps({**shape, **others}))
    tensors = tensor_shapes(dim)
    names = write_shards(directory, tensors)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    size = sum(math.prod(one) for one in tensors.values()) * width
    return size, max(_LAYERS.value * 3 * dim * dim, _VOCABULARY.value * dim) * width


def model_dim(parameters: float) -> int:
    """Return the multiple of 64 whose model has the number of parameters closest to `parameters`."""
    count = lambda dim: sum(math.prod(shape) for shape in tensor_shapes(dim).values())  # noqa: E731
    return min(range(64, 16_384, 64), key=lambda dim: abs(count(dim) - parameters))


def tensor_shapes(dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY.value, dim)}
    for i in range(_LAYERS.value):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (dim, dim) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (3 * dim, dim) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (dim, 3 * dim)
        shapes |= {f"{layer}.{name}_layernorm.weight": (dim,) for name in ("input", "post_attention")}
    return {**shapes, "model.norm.weight": (dim,), "lm_head.weight": (_VOCABULARY.value, dim)}


def write_shards(directory: Path, tensors: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Write random tensors, shard by shard; return the shard of each tensor."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(getattr(ml_dtypes, _DTYPE.value, _DTYPE.value))
    names: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}
    for name, shape in tensors.items():
        shard[name] = rng.standard_normal(shape, np.float32).astype(dtype)
        if sum(one.nbytes for one in shard.values()) >= FILE_BYTES or len(names) + len(shard) == len(tensors):
            file = f"model-{len(set(names.values())) + 1:05}.safetensors"
            save_file(shard, directory / file)
            names |= dict.fromkeys(shard, file)
            shard = {}
    return names


def copy(source: Path, target: Path) -> float:
    """Return the seconds to copy a directory and sync it to disk."""
    began = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    for file in target.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    return time.perf_counter() - began


def convert(source: Path, out: Path) -> tuple[float, int]:
    """Return the seconds and the peak memory of the command. Raises TrainingError where it failed on a model."""
    began = time.perf_counter()
    arguments = [sys.executable, "-m", "finetune_scaling.convert", f"--from-hf={source}", f"--out={out}"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_bytes(process.pid))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        errors.seek(0)
        if process.returncode and source.exists():
            raise TrainingError(f"{arguments[1:4]} ended with {process.returncode}: {errors.read()[-2000:]}")
    return seconds, peak


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process so far; wait4 would include its parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    command.run(main)
