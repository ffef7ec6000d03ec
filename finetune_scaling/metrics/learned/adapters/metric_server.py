"""The server side of the metric protocol (docs/metrics.md), imported by metric programs.

It runs in the metric's own environment: standard library only, Python 3.10 or newer.
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

Request = dict[str, Any]
Scorer = Callable[[list[Request]], Sequence[float]]


def arguments(description: str) -> argparse.ArgumentParser:
    """Return an argument parser with the arguments that all adapters share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="Name or path of the model to load.")
    parser.add_argument("--batch-size", type=int, default=32, help="Segments scored at a time.")
    return parser


def serve(header: dict[str, Any], load: Callable[[], Scorer], batch_size: int) -> None:
    """Write the header, load the metric when the first request arrives, and answer in batches.

    If header["references"] is "mean", the metric scores requests with one `reference` each, and scores are averaged.
    """
    output = _take_stdout()
    _write(output, [{"protocol": 1, **header}])
    scorer, requests = None, map(json.loads, sys.stdin.buffer)
    for batch in iter(lambda: list(itertools.islice(requests, batch_size)), []):
        scorer = scorer or load()
        scores = _mean_over_references(batch, scorer) if header.get("references") == "mean" else scorer(batch)
        _write(output, [{"id": request["id"], "score": float(s)} for request, s in zip(batch, scores, strict=True)])


def _mean_over_references(requests: list[Request], score: Scorer) -> list[float]:
    """Return the mean score over the references of each request."""
    pairs = [{**request, "reference": text} for request in requests for text in request["references"]]
    scores = iter(score(pairs))
    return [sum(itertools.islice(scores, len(r["references"]))) / len(r["references"]) for r in requests]


def model_identity(model: str) -> str:
    """Return the name of a model, with a digest of its contents if it is a file or directory."""
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
    """Return the standard output for the protocol, and redirect everything that libraries print to stderr."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(descriptor, "w", encoding="utf-8")


def _write(output: IO[str], objects: Sequence[dict[str, Any]]) -> None:
    output.write("".join(json.dumps(value) + "\n" for value in objects))
    output.flush()
