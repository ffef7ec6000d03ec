"""The protocol of docs/metrics.md from the side of the metric's program.

Runs under the interpreter of a metric's own environment: the standard library only, Python 3.10 and newer.
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

Request = dict[str, Any]
Scorer = Callable[[Sequence[Request]], Sequence[float]]


def arguments(description: str) -> argparse.ArgumentParser:
    """The parser of an adapter, with the arguments that all of them have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="Name or path of what the metric loads.")
    parser.add_argument("--batch-size", type=int, default=32, help="Segments scored at a time.")
    return parser


def serve(header: dict[str, Any], load: Callable[[], Scorer], batch_size: int) -> None:
    """Says who it is at once, loads the metric when the first request comes, and answers batch by batch."""
    output = _take_stdout()
    _write(output, [{"protocol": 1, **header}])
    scorer = None
    for batch in _batches(_requests(), batch_size):
        scorer = scorer or load()
        scores = list(scorer(batch))
        if len(scores) != len(batch):
            raise RuntimeError(f"the metric gave {len(scores)} scores for {len(batch)} segments")
        _write(output, [{"id": request["id"], "score": float(s)} for request, s in zip(batch, scores, strict=True)])


def mean_over_references(requests: Sequence[Request], score: Callable[[list[Request]], Sequence[float]]) -> list[float]:
    """The score of each request as the mean over its references; score: requests with `reference` -> numbers."""
    pairs = [{**request, "reference": text} for request in requests for text in request["references"]]
    scores = iter(score(pairs))
    return [sum(itertools.islice(scores, len(r["references"]))) / len(r["references"]) for r in requests]


def model_identity(model: str) -> str:
    """A model's name; of a file or folder also a digest of its bytes, so that another model is another metric."""
    if not os.path.exists(model):
        return model
    digest = hashlib.sha256()
    for path in _files(model):
        digest.update(os.path.relpath(path, model).encode())
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return f"{os.path.basename(os.path.abspath(model))}@sha256-{digest.hexdigest()[:16]}"


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def _take_stdout() -> IO[str]:
    """The real standard output, for the protocol alone: what libraries print goes to stderr from now on."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(descriptor, "w", encoding="utf-8")


def _requests() -> Iterator[Request]:
    for line in sys.stdin.buffer:
        yield json.loads(line.decode("utf-8"))


def _batches(requests: Iterator[Request], size: int) -> Iterator[list[Request]]:
    while True:
        batch = list(itertools.islice(requests, size))
        if not batch:
            return
        yield batch


def _write(output: IO[str], objects: Sequence[dict[str, Any]]) -> None:
    output.write("".join(json.dumps(value) + "\n" for value in objects))
    output.flush()
