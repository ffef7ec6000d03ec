"""Format the content of a directory as text for a terminal."""

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

Found = Mapping[str, Any]
Lines = Iterable[tuple[str, Any]]

_WIDTH = 26


def format_inspection(found: Found) -> str:
    """Return the result of `inspect` as lines of a name and a value."""
    lines = [(found["kind"], found["path"]), *_FORMATS[found["kind"]](found)]
    return "\n".join(f"{name:<{_WIDTH}}{value}" for name, value in lines if value not in (None, ""))


def _checkpoint(found: Found) -> Lines:
    yield "step", found["step"]
    yield "best step", _best(found["best_step"], found["best_dev_loss"])
    yield "dev loss at step", _loss(found["dev_loss"])
    yield "stopped by", found["stopped_by"]
    yield from _contents(found)


def _contents(found: Found) -> Lines:
    """Yield method, counts, digests and arrays of a checkpoint."""
    counts, digests = found["parameters"], found["digests"]
    yield "method", _options(found["method"])
    yield "model", _options({name: found["model"][name] for name in ("layers", "model_dim", "heads", "vocab_size")})
    yield "parameters", f"{counts['base']:,} of the base model, {counts['base_non_embedding']:,} without embeddings"
    yield "trainable parameters", f"{counts['trainable']:,} ({counts['added']:,} added by the method)"
    yield "frozen parameters", f"{counts['frozen']:,}" + (", stored in the base model" if counts["frozen"] else "")
    yield "tokens computed", f"{found['tokens_computed']:,}"
    yield "on disk", f"{found['file_bytes']:,} bytes"
    for name in ("base", "arrays", "tokenizer"):
        yield f"digest, {name}", digests[name] or ("none: no base model" if name == "base" else None)
    for part, rows in found["arrays"].items():
        yield part, f"{len(rows)} arrays, {found['array_bytes'][part]:,} bytes"
    rows = found["arrays"]["trainable"]
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        yield "", f"{row['name']:<{width}}  {row['dtype']:<9} {row['shape']}"


def _run(found: Found) -> Lines:
    result, checkpoints, public = found["result"], found["checkpoints"], found["public"]
    yield "name", found["name"]
    yield "state", _state(found)
    yield "task", found["task"]
    yield "examples", None if found["finetune_examples"] is None else f"{found['finetune_examples']:,}"
    yield "base", found["base"] and _options(found["base"])
    yield "converted from", public and _options(public)
    yield "tokenizer", found["tokenizer"]
    yield "batch", None if public else f"{found['batch_size']} rows of {found['length']} tokens"
    yield "best step", _best(found["best_step"], found["dev_loss"])
    yield "checkpoint steps", ", ".join(map(str, checkpoints["steps"])) or "none"
    yield "damaged checkpoints", ", ".join(checkpoints["set_aside"])
    yield "newest is damaged", found["damage"]
    if result:
        yield "stopped by", None if public else result["stopped_by"]
        yield "loss", _loss(result["loss"])
        for name, test in result.get("tests", {}).items():
            for metric, entry in test["metrics"].items():
                yield f"{name}, {metric}", f"{entry['score']:.2f}  {entry['signature']}"
    yield "evaluation/", ", ".join(found["evaluations"])
    if found["checkpoint"]:
        yield "newest checkpoint", f"step {found['checkpoint']['step']}"
        yield from _contents(found["checkpoint"])


def _state(found: Found) -> str:
    """Return the state of a run and its progress."""
    if found["result"]:
        return "converted" if found["public"] else f"done, {found['result']['steps']} steps"
    if found["public"]:
        return "partly converted; the same convert command resumes it"
    last = found["last_report"]
    if last is None:
        return "started, no metrics yet"
    when = f" at {datetime.datetime.fromtimestamp(last['time']):%Y-%m-%d %H:%M:%S}" if "time" in last else ""
    return f"started, last metrics of step {last['step']}{when}"


def _study(found: Found) -> Lines:
    yield "name", found["name"]
    for name, states in {"runs": found["states"], **found["by_method"]}.items():
        yield name, ", ".join(f"{number} {state}" for state, number in states.items() if number)
    for base in found["bases"]:
        loss = "" if base["dev_loss"] is None else f", dev loss {base['dev_loss']:.4f}"
        yield f"base {base['base']}", f"{base['state']}{loss}"
    for run in found["runs"]:
        if run["state"] == "failed":
            yield "failed", f"{run['directory']}: {run['error']}"
    for name in ("points", "report"):
        yield name, "written" if found[name] else "not yet"


def _tokenizer(found: Found) -> Lines:
    yield "vocabulary", f"{found['vocab_size']:,} ids, {found['sentinels']} of them sentinel tokens"
    yield "special ids", _options(found["special_ids"])
    yield "digest", found["digest"]
    yield "trained with", found["record"] and _options(found["record"].get("config") or {})


def _corpus(found: Found) -> Lines:
    settings, statistics = found["settings"], found["statistics"]
    yield "state", f"{found['state']}: {found['shards_made']} of {found['shards']} shards written"
    yield "chunks of up to", f"{settings['chunk_tokens']} tokens"
    yield "digest, tokenizer", settings["tokenizer_sha256"]
    if statistics:
        names = ("documents", "chunks", "text_tokens", "bytes")
        yield "content", ", ".join(f"{statistics[name]:,} {name.removeprefix('text_')}" for name in names)
        dropped = ("empty_documents", "duplicates", "too_short", "too_long")
        yield "removed", _options({name: statistics[name] for name in dropped})


def _best(step: int | None, loss: float | None) -> str | None:
    return None if step is None else f"{step}, dev loss {_loss(loss)}"


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f} nats per token"


def _options(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)


_FORMATS = {
    "checkpoint": _checkpoint,
    "run": _run,
    "base": _run,
    "study": _study,
    "tokenizer": _tokenizer,
    "corpus": _corpus,
}
