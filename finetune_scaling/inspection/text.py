"""A tokenizer, and a prepared corpus, which may be in progress."""

from typing import Any

from finetune_scaling.data.preparation.settings import SETTINGS, STATISTICS, shard_file
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import RECORD_FILE, load_sentencepiece_tokenizer
from finetune_scaling.files import Location, read_json


def inspect_tokenizer(path: Location) -> dict[str, Any]:
    """A tokenizer's directory as plain data. Raises DataError where it is damaged."""
    tokenizer = load_sentencepiece_tokenizer(path)
    return {
        "kind": "tokenizer",
        "path": str(path),
        "vocab_size": tokenizer.vocab_size,
        "sentinels": len(tokenizer.sentinel_ids),
        "special_ids": {
            "pad": tokenizer.pad_id,
            "eos": tokenizer.eos_id,
            "bos": tokenizer.bos_id,
            "unk": tokenizer.unk_id,
            **tokenizer.mode_ids,
        },
        "digest": tokenizer.digest,
        "record": read_json(path / RECORD_FILE) if (path / RECORD_FILE).exists() else None,
    }


def inspect_corpus(path: Location) -> dict[str, Any]:
    """A prepared corpus as plain data; its statistics once it is finished. Raises WorkdirError where it is broken."""
    settings = read_json(path / SETTINGS)
    done = (path / STATISTICS).exists()
    made = [number for number in range(settings["shards"]) if shard_file(path, number, "json").exists()]
    statistics = read_json(path / STATISTICS) if done else None
    return {
        "kind": "corpus",
        "path": str(path),
        "state": "done" if done else "started",
        "shards": settings["shards"],
        "shards_made": len(made),
        "settings": settings,
        "statistics": statistics,
        "bytes": sum(shard["bytes"] for shard in statistics["shards"]) if statistics else None,
    }
