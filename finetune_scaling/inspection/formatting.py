"""Format the content of a directory as text for a terminal."""

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

Content = Mapping[str, Any]
Lines = Iterable[tuple[str, Any]]

_WIDTH = 26


def format_inspection(content: Content) -> str:
    """Return the result of `inspect` as lines of a name and a value."""
    lines = [(content["kind"], content["path"]), *_FORMATS[content["kind"]](content)]
    return "\n".join(f"{name:<{_WIDTH}}{value}" for name, value in lines if value not in (None, ""))


def _checkpoint(content: Content) -> Lines:
    yield "step", content["step"]
    yield "best step", _best(content["best_step"], content["best_dev_loss"])
    yield "dev loss at step", _loss(content["dev_loss"])
    yield "stopped by", content["stopped_by"]
    yield from _contents(content)


def _contents(content: Content) -> Lines:
    """Yield method, counts, digests and arrays of a checkpoint."""
    counts, digests = content["parameters"], content["digests"]
    yield "method", _options(content["method"])
    yield "model", _options({name: content["model"][name] for name in ("layers", "model_dim", "heads", "vocab_size")})
    yield "parameters", f"{counts['base']:,} of the base model, {counts['base_non_embedding']:,} without embeddings"
    yield "trainable parameters", f"{counts['trainable']:,} ({counts['added']:,} added by the method)"
    yield "frozen parameters", f"{counts['frozen']:,}" + (", stored in the base model" if counts["frozen"] else "")
    yield "tokens computed", f"{content['tokens_computed']:,}"
    yield "on disk", f"{content['file_bytes']:,} bytes"
    for name in ("base", "arrays", "tokenizer"):
        yield f"digest, {name}", digests[name] or ("none: no base model" if name == "base" else None)
    for part, rows in content["arrays"].items():
        yield part, f"{len(rows)} arrays, {content['array_bytes'][part]:,} bytes"
    rows = content["arrays"]["trainable"]
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        yield "", f"{row['name']:<{width}}  {row['dtype']:<9} {row['shape']}"


def _run(content: Content) -> Lines:
    result, checkpoints, public = content["result"], content["checkpoints"], content["public"]
    yield "name", content["name"]
    yield "state", _state(content)
    yield "task", content["task"]
    yield "examples", None if content["finetune_examples"] is None else f"{content['finetune_examples']:,}"
    yield "base", content["base"] and _options(content["base"])
    yield "converted from", public and _options(public)
    yield "tokenizer", content["tokenizer"]
    yield "batch", None if public else f"{content['batch_size']} rows of {content['length']} tokens"
    yield "best step", _best(content["best_step"], content["dev_loss"])
    yield "checkpoint steps", ", ".join(map(str, checkpoints["steps"])) or "none"
    yield "damaged checkpoints", ", ".join(checkpoints["set_aside"])
    yield "newest is damaged", content["damage"]
    if result:
        yield "stopped by", None if public else result.get("stopped_by")
        yield "loss", _loss(result.get("loss"))
        for name, test in result.get("tests", {}).items():
            for metric, entry in test.get("metrics", {}).items():
                yield f"{name}, {metric}", f"{entry['score']:.2f}  {entry['signature']}"
    yield "evaluation/", ", ".join(content["evaluations"])
    if content["checkpoint"]:
        yield "newest checkpoint", f"step {content['checkpoint']['step']}"
        yield from _contents(content["checkpoint"])


def _state(content: Content) -> str:
    """Return the state of a run and its progress."""
    if content["result"]:
        return "converted" if content["public"] else f"done, {content['result']['steps']} steps"
    if content["public"]:
        return "partly converted; the same convert command resumes it"
    last = content["last_report"]
    if last is None:
        return "started, no metrics yet"
    when = f" at {datetime.datetime.fromtimestamp(last['time']):%Y-%m-%d %H:%M:%S}" if "time" in last else ""
    return f"started, last metrics of step {last['step']}{when}"


def _study(content: Content) -> Lines:
    yield "name", content["name"]
    for name, states in {"runs": content["states"], **content["by_method"]}.items():
        yield name, ", ".join(f"{number} {state}" for state, number in states.items() if number)
    for base in content["bases"]:
        loss = "" if base["dev_loss"] is None else f", dev loss {base['dev_loss']:.4f}"
        yield f"base {base['base']}", f"{base['state']}{loss}"
    for run in content["runs"]:
        if run["state"] == "failed":
            yield "failed", f"{run['directory']}: {run['error']}"
    for name in ("points", "report"):
        yield name, "written" if content[name] else "not yet"


def _tokenizer(content: Content) -> Lines:
    yield "vocabulary", f"{content['vocab_size']:,} ids, {content['sentinels']} of them sentinel tokens"
    yield "special ids", _options(content["special_ids"])
    yield "digest", content["digest"]
    yield "trained with", content["record"] and _options(content["record"].get("config") or {})


def _corpus(content: Content) -> Lines:
    settings, statistics = content["settings"], content["statistics"]
    yield "state", f"{content['state']}: {content['shards_made']} of {content['shards']} shards written"
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
